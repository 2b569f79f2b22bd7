//! JSON, as anybody may send it in place of a message.

use keyferry_fuzz::{Fuzz, Verdict};
use keyferry_proto::v1::{
    AddSecretVersionRequest, BatchGetSecretsRequest, ExplainAccessRequest, GetSecretRequest, ListLeasesRequest,
};
use prost::Message;

use super::{MessageId, Schema};
use crate::gateway::wiped::Wiped;

const WORDS: [&str; 20] = [
    "GetSecretRequest\n",
    "\"name\":",
    "\"maxAge\":",
    "\"max_age\":",
    "\"minRevision\":",
    "\"1.5s\"",
    "\"payload\":",
    "\"_-8=\"",
    "\"labels\":",
    "\"requests\":",
    "\"filter\":",
    "\"states\":",
    "\"LEASE_STATE_ACTIVE\"",
    "\"pageSize\":",
    "\"describedCaller\":",
    "\"claims\":",
    "{",
    "[",
    "],",
    "},",
];

#[test]
fn json_that_is_accepted_is_a_message_and_says_the_same_when_it_is_told_back() {
    let schema = Schema::new().unwrap();
    Fuzz::new("json").words(&WORDS).allocating(1 << 16, 256).holds(|input| {
        let Some((name, json)) = input.iter().position(|byte| *byte == b'\n').map(|end| input.split_at(end)) else {
            return Verdict::Refused;
        };
        let name = String::from_utf8_lossy(name);
        let Some(id) = schema.message_named(&format!("keyferry.v1.{name}")) else { return Verdict::Refused };
        let wire = match schema.read(id, &mut json.to_vec(), Wiped::with_capacity(0)) {
            Ok(wire) => wire,
            Err(failure) => {
                let said = failure.message();
                assert!(said.len() < 1024 && !said.contains(char::is_control), "{said:?}");
                return Verdict::Refused;
            }
        };
        decodes(&name, wire.as_slice());
        let told = told(&schema, id, &wire);
        let again = schema.read(id, &mut told.as_slice().to_vec(), Wiped::with_capacity(0)).ok();
        let again = again.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(told.as_slice())));
        assert_eq!(self::told(&schema, id, &again).as_slice(), told.as_slice());
        Verdict::Accepted
    });
}

fn told(schema: &Schema, id: MessageId, wire: &Wiped) -> Wiped {
    let mut json = Wiped::with_capacity(0);
    schema.write(id, wire.as_slice(), &mut json).unwrap();
    json
}

/// By the generated code, as the handlers have it.
fn decodes(name: &str, wire: &[u8]) {
    fn is<M: Message + Default>(wire: &[u8]) {
        M::decode(wire).unwrap();
    }
    match name {
        "GetSecretRequest" => is::<GetSecretRequest>(wire),
        "AddSecretVersionRequest" => is::<AddSecretVersionRequest>(wire),
        "BatchGetSecretsRequest" => is::<BatchGetSecretsRequest>(wire),
        "ListLeasesRequest" => is::<ListLeasesRequest>(wire),
        "ExplainAccessRequest" => is::<ExplainAccessRequest>(wire),
        _ => {}
    }
}
