//! Another that makes users on demand: OpenBao with its database engine and durable storage, as we.

use std::path::Path;
use std::process::Command;

use keyferry_benches::Outcome;
use keyferry_benches::openbao::{Api, OpenBao, Storage};
use keyferry_tests::pki::Ca;
use keyferry_tests::postgres::Cluster;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{CLIENTS, rate_of};

const STATEMENTS: &str = r#"CREATE ROLE "{{name}}" LOGIN CONNECTION LIMIT 10 PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE "orders_read"; COMMENT ON ROLE "{{name}}" IS 'made for somebody';"#;

pub(crate) struct Engine(OpenBao);

impl Engine {
    pub(crate) async fn start(binary: &Path, ca: &Ca, database: &Cluster) -> Outcome<Self> {
        let openbao = OpenBao::start(Command::new(binary), ca, Storage::Disk).await?;
        let api = openbao.api();
        api.ask_until_it_can(Method::POST, "sys/mounts/database", json!({ "type": "database" })).await?;
        let path = database.path().display();
        let url = format!(
            "postgresql://keyferry@127.0.0.1:{port}/shop?sslmode=verify-full&sslrootcert={path}/ca.pem\
             &sslcert={path}/broker.pem&sslkey={path}/broker.key",
            port = database.port()
        );
        let connection = json!({
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": "*",
            "connection_url": url,
            "max_open_connections": CLIENTS,
            "max_idle_connections": CLIENTS,
            "password_authentication": "scram-sha-256",
        });
        api.ask(Method::POST, "database/config/shop", connection).await?;
        let role =
            json!({ "db_name": "shop", "creation_statements": [STATEMENTS], "default_ttl": "15m", "max_ttl": "24h" });
        api.ask(Method::POST, "database/roles/reader", role).await?;
        Ok(Self(openbao))
    }

    pub(crate) async fn rate(&self) -> Outcome<f64> {
        rate_of(vec![self.0.api().clone(); CLIENTS], |api: Api| async move {
            api.ask(Method::GET, "database/creds/reader", Value::Null).await?;
            Ok(api)
        })
        .await
    }
}
