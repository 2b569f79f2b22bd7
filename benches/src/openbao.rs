//! OpenBao, another keeper of secrets: with TLS and an audit file, as the broker has them.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keyferry_tests::pki::Ca;
use reqwest::{Certificate, Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Outcome;

/// Killed when dropped.
#[derive(Debug)]
pub struct OpenBao {
    process: Child,
    port: u16,
    api: Api,
    _directory: TempDir,
}

#[derive(Clone, Copy, Debug)]
pub enum Storage {
    Disk,
    Memory,
}

/// What it is asked through, with a token.
#[derive(Clone)]
pub struct Api {
    client: Client,
    address: String,
    token: String,
}

impl OpenBao {
    /// `program` is the binary, perhaps pinned; returns once it is unsealed and leads itself.
    pub async fn start(mut program: Command, ca: &Ca, storage: Storage) -> Outcome<Self> {
        let directory = TempDir::new()?;
        let path = directory.path();
        ca.server("localhost").write(path, "server");
        fs::create_dir(path.join("data"))?;
        let [port, cluster] = [free_port()?, free_port()?];
        fs::write(path.join("config.hcl"), configuration(path, port, cluster, storage))?;
        program.args(["server", "-config"]).arg(path.join("config.hcl")).stdin(Stdio::null());
        let log = fs::File::create(path.join("log"))?;
        let process = program.stdout(log.try_clone()?).stderr(log).spawn()?;
        let client = Client::builder().tls_certs_only(Certificate::from_pem_bundle(ca.pem().as_bytes())?).build()?;
        let api = Api { client, address: format!("https://127.0.0.1:{port}"), token: String::new() };
        let mut openbao = Self { process, port, api, _directory: directory };
        openbao.unseal().await?;
        Ok(openbao)
    }

    async fn unseal(&mut self) -> Outcome<()> {
        let once = json!({ "secret_shares": 1, "secret_threshold": 1 });
        let keys = self.api.ask_until_it_can(Method::PUT, "sys/init", once).await?;
        self.api.token = keys["root_token"].as_str().ok_or("no token")?.to_owned();
        self.api.ask(Method::PUT, "sys/unseal", json!({ "key": keys["keys_base64"][0] })).await?;
        self.api.ask_until_it_can(Method::GET, "sys/mounts", Value::Null).await?;
        Ok(())
    }

    /// As root.
    pub fn api(&self) -> &Api {
        &self.api
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Api {
    pub async fn ask(&self, method: Method, path: &str, body: Value) -> Outcome<Value> {
        let request = self.client.request(method, format!("{}/v1/{path}", self.address));
        let request = if body.is_null() { request } else { request.body(body.to_string()) };
        let answer = request.header("x-vault-token", &self.token).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        if !status.is_success() {
            return Err(format!("OpenBao: {path}: {status}: {text}").into());
        }
        Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
    }

    /// It answers when it has started, again when it leads itself, and again when an engine is ready.
    pub async fn ask_until_it_can(&self, method: Method, path: &str, body: Value) -> Outcome<Value> {
        let mut last = String::new();
        for _ in 0..300 {
            match self.ask(method.clone(), path, body.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(last.into())
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn configuration(path: &Path, port: u16, cluster: u16, storage: Storage) -> String {
    let path = path.display();
    let storage = match storage {
        Storage::Disk => format!("storage \"raft\" {{\n  path = \"{path}/data\"\n  node_id = \"one\"\n}}"),
        Storage::Memory => "storage \"inmem\" {}".to_owned(),
    };
    format!(
        r#"
api_addr = "https://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{cluster}"
{storage}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster}"
  tls_cert_file = "{path}/server.pem"
  tls_key_file = "{path}/server.key"
}}
audit "file" "file" {{
  options {{
    file_path = "{path}/audit.log"
  }}
}}
"#
    )
}

fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
