//! A Node script that says where it is and answers each line of JSON with one; killed when dropped.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

#[derive(Debug)]
pub struct Script {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Script {
    /// Starts `tests/issuers/{name}`, which trusts the CAs in the file `roots`, and returns its greeting beside it.
    pub fn start(name: &str, arguments: &[&str], roots: &Path) -> (Self, Value) {
        let mut child = Command::new("node")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("issuers").join(name))
            .args(arguments)
            .env("NODE_EXTRA_CA_CERTS", roots)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the issuers need Node 20");
        let (questions, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut script = Self { child, questions, answers };
        let greeting = script.read();
        (script, greeting)
    }

    pub fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.questions, "{question}").unwrap();
        self.read()
    }

    /// Returns once the process is gone, and its port with it.
    pub fn kill(mut self) {
        self.end();
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        if self.answers.read_line(&mut line).unwrap() == 0 {
            let mut log = String::new();
            self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
            panic!("the script ended; are its packages there (tools/install oidc-issuers)?\n{log}");
        }
        serde_json::from_str(&line).unwrap()
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.end();
    }
}
