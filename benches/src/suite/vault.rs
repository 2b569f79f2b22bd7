//! OpenBao as it is set up to do what the broker does: a key-value store in memory, an audit file, a caller with a policy.

use std::path::Path;

use keyferry_benches::Outcome;
use keyferry_benches::load::{Load, Protocol, Request, Server};
use keyferry_benches::openbao::{OpenBao, Storage};
use keyferry_benches::processor::on_one_core;
use keyferry_tests::pki::Ca;
use reqwest::Method;
use serde_json::{Value, json};

use crate::broker::PAYLOAD;

const SECRET: &str = "secret/data/orders-db-password";
const POLICY: &str = r#"path "secret/data/*" { capabilities = ["read"] }"#;

pub(crate) struct Vault {
    openbao: OpenBao,
    ca: Ca,
    token: String,
}

impl Vault {
    pub(crate) fn start(binary: &Path) -> Outcome<Self> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let ca = Ca::new("bench CA");
            let openbao = OpenBao::start(on_one_core(&binary.canonicalize()?), &ca, Storage::Memory).await?;
            let api = openbao.api();
            let engine = json!({ "type": "kv", "options": { "version": "2" } });
            api.ask_until_it_can(Method::POST, "sys/mounts/secret", engine).await?;
            let value = "x".repeat(PAYLOAD.len());
            api.ask_until_it_can(Method::POST, SECRET, json!({ "data": { "value": value } })).await?;
            api.ask(Method::POST, "sys/policies/acl/client", json!({ "policy": POLICY })).await?;
            let wanted = json!({ "policies": ["client"], "no_default_policy": true, "ttl": "12h" });
            let made = api.ask(Method::POST, "auth/token/create", wanted).await?;
            let token = made["auth"]["client_token"].as_str().ok_or("no token")?.to_owned();
            if api.ask(Method::GET, SECRET, Value::Null).await?["data"]["data"]["value"] != value {
                return Err("OpenBao answers with something else".into());
            }
            Ok(Self { openbao, ca, token })
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.openbao.id()
    }

    pub(crate) fn load(&self, protocol: Protocol, connections: usize) -> Outcome<Load> {
        let ca = self.ca.pem();
        let server = Server { port: self.openbao.port(), name: "localhost", ca: &ca, identity: None, protocol };
        let request = Request::get(&format!("/v1/{SECRET}"), ("x-vault-token", self.token.clone()), PAYLOAD.len());
        Load::open(&server, &request, connections)
    }
}
