//! Google's own fake of Pub/Sub, in a process of its own (`tools/pubsub`), with one topic and one subscription.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::secret_manager::PROJECT;

/// Ended when dropped.
#[derive(Debug)]
pub struct PubSub {
    process: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    address: String,
}

impl PubSub {
    pub fn start() -> Self {
        let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin/pubsub-fake");
        let mut process = Command::new(binary)
            .args([format!("projects/{PROJECT}/topics/secrets"), Self::subscription()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it has to be built: tools/install pubsub-fake");
        let input = process.stdin.take().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let address = line(&mut output);
        Self { process, pipes: Mutex::new((input, output)), address }
    }

    pub fn subscription() -> String {
        format!("projects/{PROJECT}/subscriptions/keyferry")
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Publishes as Secret Manager does, and returns the message's id.
    pub fn publish(&self, attributes: &Value) -> String {
        self.ask(&json!({ "attributes": attributes }))
    }

    /// How often the message was acknowledged.
    pub fn acks(&self, id: &str) -> usize {
        self.ask(&json!({ "acks": id })).parse().unwrap()
    }

    fn ask(&self, question: &Value) -> String {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(pipes.0, "{question}").unwrap();
        line(&mut pipes.1)
    }
}

impl Drop for PubSub {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn line(output: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.trim().to_owned()
}
