//! Plain curl, as whoever has no stubs calls the broker.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::broker::TestBroker;
use crate::pki::Issued;

/// What curl was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The head, its names in lower case.
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// `curl {arguments} https://…{path}` with that certificate, or without one.
pub async fn curl(broker: &TestBroker, who: Option<&Issued>, path: &str, arguments: &[&str]) -> Answer {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("ca.pem"), broker.ca.pem()).unwrap();
    if let Some(who) = who {
        who.write(directory.path(), "who");
    }
    let url = format!("https://127.0.0.1:{}{path}", broker.broker.grpc_address().port());
    let mut command = command(directory.path(), who.is_some());
    command.args(arguments).arg(url);
    // The broker lives on this runtime.
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("the tests need curl");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    let mut rest = said.as_str();
    loop {
        let (head, body) = rest.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        if status != 100 {
            let head = head.replace('\r', "");
            let lower = |line: &str| match line.split_once(':') {
                Some((name, value)) => format!("{}:{value}", name.to_ascii_lowercase()),
                None => line.to_owned(),
            };
            let head = head.lines().map(lower).collect::<Vec<_>>().join("\n");
            return Answer { status, head, body: body.to_owned() };
        }
        rest = body;
    }
}

fn command(directory: &Path, certified: bool) -> Command {
    let mut command = Command::new("curl");
    command.args(["-sS", "-i", "--max-time", "30", "--cacert"]).arg(directory.join("ca.pem"));
    if certified {
        command.arg("--cert").arg(directory.join("who.pem")).arg("--key").arg(directory.join("who.key"));
    }
    command
}
