//! Another that makes users on demand: OpenBao with its database engine, durable storage, TLS and an audit file, as we.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use keyferry_benches::Outcome;
use keyferry_tests::pki::Ca;
use keyferry_tests::postgres::Cluster;
use reqwest::{Certificate, Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{CLIENTS, rate_of};

const STATEMENTS: &str = r#"CREATE ROLE "{{name}}" LOGIN CONNECTION LIMIT 10 PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE "orders_read"; COMMENT ON ROLE "{{name}}" IS 'made for somebody';"#;

/// Killed when dropped.
pub(crate) struct OpenBao {
    process: Child,
    api: Api,
    _directory: TempDir,
}

#[derive(Clone)]
struct Api {
    client: Client,
    address: String,
    token: String,
}

impl OpenBao {
    pub(crate) async fn start(binary: &Path, ca: &Ca, database: &Cluster) -> Outcome<Self> {
        let directory = TempDir::new()?;
        let path = directory.path();
        ca.server("localhost").write(path, "server");
        fs::create_dir(path.join("data"))?;
        let [api, cluster] = [free_port()?, free_port()?];
        let address = format!("https://127.0.0.1:{api}");
        fs::write(
            path.join("config.hcl"),
            format!(
                r#"
api_addr = "{address}"
cluster_addr = "https://127.0.0.1:{cluster}"
storage "raft" {{
  path = "{path}/data"
  node_id = "one"
}}
listener "tcp" {{
  address = "127.0.0.1:{api}"
  cluster_address = "127.0.0.1:{cluster}"
  tls_cert_file = "{path}/server.pem"
  tls_key_file = "{path}/server.key"
}}
audit "file" "file" {{
  options {{
    file_path = "{path}/audit.log"
  }}
}}
"#,
                path = path.display()
            ),
        )?;
        let mut command = Command::new(binary);
        command.args(["server", "-config"]).arg(path.join("config.hcl")).stdin(Stdio::null());
        let log = fs::File::create(path.join("log"))?;
        let process = command.stdout(log.try_clone()?).stderr(log).spawn()?;
        let client = Client::builder().tls_certs_only(Certificate::from_pem_bundle(ca.pem().as_bytes())?).build()?;
        let api = Api { client, address, token: String::new() };
        let mut openbao = Self { process, api, _directory: directory };
        openbao.set_up(database).await?;
        Ok(openbao)
    }

    async fn set_up(&mut self, database: &Cluster) -> Outcome<()> {
        let keys =
            self.once_it_can(Method::PUT, "sys/init", json!({ "secret_shares": 1, "secret_threshold": 1 })).await?;
        self.api.token = keys["root_token"].as_str().ok_or("no token")?.to_owned();
        self.api.ask(Method::PUT, "sys/unseal", json!({ "key": keys["keys_base64"][0] })).await?;
        self.once_it_can(Method::POST, "sys/mounts/database", json!({ "type": "database" })).await?;
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
        self.api.ask(Method::POST, "database/config/shop", connection).await?;
        let role =
            json!({ "db_name": "shop", "creation_statements": [STATEMENTS], "default_ttl": "15m", "max_ttl": "24h" });
        self.api.ask(Method::POST, "database/roles/reader", role).await?;
        Ok(())
    }

    /// It answers when it has started, and again when it leads itself.
    async fn once_it_can(&self, method: Method, path: &str, body: Value) -> Outcome<Value> {
        let mut last = String::new();
        for _ in 0..300 {
            match self.api.ask(method.clone(), path, body.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        Err(last.into())
    }

    pub(crate) async fn rate(&self) -> Outcome<f64> {
        rate_of(vec![self.api.clone(); CLIENTS], |api: Api| async move {
            api.ask(Method::GET, "database/creds/reader", Value::Null).await?;
            Ok(api)
        })
        .await
    }
}

impl Api {
    async fn ask(&self, method: Method, path: &str, body: Value) -> Outcome<Value> {
        let request = self.client.request(method, format!("{}/v1/{path}", self.address));
        let request = if body.is_null() { request } else { request.body(body.to_string()) };
        let answer = request.header("x-vault-token", &self.token).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        if !status.is_success() {
            return Err(format!("OpenBao: {path}: {status}: {text}").into());
        }
        Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
