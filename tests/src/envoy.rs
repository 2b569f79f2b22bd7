//! The real Envoy, on the example of `deploy/envoy`; killed when dropped.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::pki::Issued;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/envoy/envoy.yaml");

#[derive(Debug)]
pub struct Envoy {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    admin_file: PathBuf,
    _directory: TempDir,
}

/// Where the example is to find what it needs here.
#[derive(Debug)]
pub struct Surroundings<'a> {
    pub broker: u16,
    /// Of the broker's certificate, which is for `keyferry.test` unless `changes` says another name.
    pub broker_ca: String,
    pub identity: &'a Issued,
    pub upstream: u16,
    /// Further replacements in its text.
    pub changes: &'a [(&'a str, &'a str)],
}

impl Envoy {
    /// Returns at once: whoever needs an answer asks until there is one.
    pub fn start(around: &Surroundings<'_>) -> Self {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("ca.pem"), &around.broker_ca).unwrap();
        around.identity.write(directory.path(), "client");
        let (bootstrap, admin_file) = (directory.path().join("envoy.yaml"), directory.path().join("admin"));
        fs::write(&bootstrap, bootstrap_for(around, directory.path())).unwrap();
        let mut child = Command::new("envoy")
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--config-path"])
            .arg(&bootstrap)
            .arg("--admin-address-path")
            .arg(&admin_file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("Envoy is not here; run: tools/install envoy");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, written) = (BufReader::new(child.stderr.take().unwrap()).lines(), Arc::clone(&log));
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| written.lock().unwrap().push(line)));
        Self { child, log, admin_file, _directory: directory }
    }

    /// What it has logged, warnings and worse.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Where its listener is, once it serves.
    pub async fn listener(&self) -> Option<SocketAddr> {
        let body = self.admin("/listeners?format=json").await?;
        let listeners: Value = serde_json::from_str(&body).ok()?;
        let address = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
        let port = u16::try_from(address["port_value"].as_u64()?).ok()?;
        Some(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// An answer of its administration page.
    pub async fn admin(&self, path: &str) -> Option<String> {
        let address = fs::read_to_string(&self.admin_file).ok()?;
        let mut stream = TcpStream::connect(address.trim()).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        let answer = String::from_utf8(answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        // Of one chunk or a few, between lines that count.
        let body = if head.contains("chunked") {
            body.lines().filter(|line| !is_count(line)).collect()
        } else {
            body.to_owned()
        };
        head.starts_with("HTTP/1.1 200").then_some(body)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

fn is_count(line: &str) -> bool {
    u32::from_str_radix(line.trim(), 16).is_ok()
}

/// The example itself. A replacement that finds nothing means that the example is another one by now.
fn bootstrap_for(around: &Surroundings<'_>, directory: &Path) -> String {
    let mut text = fs::read_to_string(EXAMPLE).unwrap();
    let (broker, upstream) = (around.broker, around.upstream);
    let replacements = [
        ("keyferry.example.com, port_value: 7443", format!("127.0.0.1, port_value: {broker}")),
        ("keyferry.example.com", "keyferry.test".to_owned()),
        ("upstream.example.com, port_value: 8080", format!("127.0.0.1, port_value: {upstream}")),
        ("0.0.0.0, port_value: 8443", "127.0.0.1, port_value: 0".to_owned()),
        ("port_value: 9901", "port_value: 0".to_owned()),
        ("/etc/envoy/keyferry", directory.to_str().unwrap().to_owned()),
    ];
    let changes = around.changes.iter().map(|&(old, new)| (old, new.to_owned()));
    for (old, new) in replacements.into_iter().chain(changes) {
        assert!(text.contains(old), "deploy/envoy/envoy.yaml has no {old:?}");
        text = text.replace(old, &new);
    }
    text
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
