//! The `keyferry` command as somebody types it, before a broker of the test's own.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::broker::TestBroker;
use crate::pki::Issued;
use crate::process::keyferry;

/// What came of a command.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ran {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// One object a line.
    pub fn json(&self) -> Vec<serde_json::Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Its output, where it ended well.
    #[track_caller]
    pub fn done(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.text().to_owned()
    }

    #[track_caller]
    pub fn failed(self, code: i32, why: &str) {
        assert!(self.code == code && self.stderr.contains(why), "not {code} with {why:?}: {self:?}");
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap());
        Self { code, stdout: output.stdout, stderr: String::from_utf8(output.stderr).unwrap() }
    }
}

/// Somebody who runs commands, with credentials in the environment.
#[derive(Debug)]
pub struct Caller {
    directory: PathBuf,
    name: &'static str,
    server: String,
}

impl Caller {
    pub fn of(broker: &TestBroker, name: &'static str, who: &Issued) -> Self {
        who.write(broker.path(), name);
        let server = format!("https://127.0.0.1:{}", broker.broker.grpc_address().port());
        Self { directory: broker.path().to_owned(), name, server }
    }

    /// Of a broker that is not in this process.
    pub fn at(directory: &Path, name: &'static str, who: &Issued, port: u16) -> Self {
        who.write(directory, name);
        Self { directory: directory.to_owned(), name, server: format!("https://127.0.0.1:{port}") }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(keyferry());
        let file = |end: &str| self.directory.join(format!("{}.{end}", self.name));
        command
            .args(arguments)
            .env("KEYFERRY_SERVER", &self.server)
            .env("KEYFERRY_CA", self.directory.join("ca.pem"))
            .env("KEYFERRY_CERT", file("pem"))
            .env("KEYFERRY_KEY", file("key"))
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().unwrap().into()
    }

    pub fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap().into()
    }

    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// On a terminal: the exit code, and all that a person would see. `typed` is what that person types.
    pub fn run_on_terminal(&self, arguments: &[&str], typed: &str) -> (i32, String) {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let mut command = self.command(arguments);
        let other = || File::from(open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap());
        let mut child = command.stdin(other()).stdout(other()).stderr(other()).spawn().unwrap();
        drop(command);
        let mut terminal = File::from(terminal);
        let mut shown = Vec::new();
        let mut buffer = [0; 4096];
        let mut typed = Some(typed).filter(|typed| !typed.is_empty());
        // Reading fails once the last program has closed the other end.
        while let Ok(read @ 1..) = terminal.read(&mut buffer) {
            shown.extend_from_slice(&buffer[..read]);
            if let Some(typed) = typed.take_if(|_| shown.ends_with(b": ")) {
                terminal.write_all(typed.as_bytes()).unwrap();
            }
        }
        (child.wait().unwrap().code().unwrap(), String::from_utf8(shown).unwrap())
    }
}

/// Whether what a verb printed has just the fields that `docs/cli.md` says it has.
#[track_caller]
pub fn assert_documented(verb: &str, printed: &serde_json::Value) {
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md")).unwrap();
    let (_, shapes) = guide.split_once("| verb | fields |\n").unwrap();
    let row = shapes.lines().find(|row| row.split('|').nth(1).unwrap().trim() == verb);
    let mut documented: Vec<_> = row.unwrap().split('|').nth(2).unwrap().split('`').skip(1).step_by(2).collect();
    documented.sort_unstable();
    let mut keys: Vec<_> = printed.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, documented, "{verb}");
}
