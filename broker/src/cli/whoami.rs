//! `keyferry whoami`

use std::process::ExitCode;

use keyferry_proto::v1::{Caller, WhoAmIRequest};
use serde_json::json;

use super::Complaint;
use super::connection::{Asking, block_on};
use super::text::time;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    asking: Asking,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Complaint> {
    let answer = block_on(async {
        let broker = args.asking.connect().await?;
        broker.ask(WhoAmIRequest {}).await
    })?;
    let caller = answer.caller.unwrap_or_default();
    args.asking.tell(
        || json!({ "caller": to_json(&caller), "policy_hash": answer.policy_hash }),
        || format!("{}\n  policies     {}", to_text(&caller), answer.policy_hash),
    )?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn to_text(caller: &Caller) -> String {
    let mut text = caller.id.clone();
    if let Some(certificate) = &caller.certificate {
        text.push_str(&format!("\n  certificate  {}", certificate.sha256_fingerprint));
    }
    if let Some(token) = &caller.token {
        text.push_str(&format!("\n  token        issuer {}, for {}", token.issuer, token.audiences.join(", ")));
        for (path, values) in token.claims.iter().flat_map(|claims| &claims.fields) {
            text.push_str(&format!("\n    {path} = {}", crate::rpc::json_of(values)));
        }
    }
    if let Some(end) = until(caller) {
        text.push_str(&format!("\n  until        {end}"));
    }
    text
}

pub(super) fn to_json(caller: &Caller) -> serde_json::Value {
    json!({
        "id": caller.id,
        "certificate": caller.certificate.as_ref().map(|certificate| json!({
            "subject": certificate.subject,
            "spiffe_id": certificate.spiffe_id,
            "dns_names": certificate.dns_names,
            "sha256_fingerprint": certificate.sha256_fingerprint,
        })),
        "token": caller.token.as_ref().map(|token| json!({
            "issuer": token.issuer,
            "subject": token.subject,
            "audiences": token.audiences,
            "claims": token.claims.as_ref().map(crate::rpc::json_of_struct),
        })),
        "expire_time": until(caller),
    })
}

fn until(caller: &Caller) -> Option<String> {
    time(caller.expire_time.as_ref()?)
}
