//! `keyferry exec`: a command with secrets in its environment, through rotations, signals and outages.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout};

use keyferry_tests::broker::{TestBroker, prepare};
use keyferry_tests::command::Caller;
use keyferry_tests::pki::Ca;
use keyferry_tests::process::Process;
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;

pub(crate) struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    pub(crate) fn start(caller: &Caller, arguments: &[&str]) -> Self {
        let mut child = caller.start(&[&["exec"], arguments].concat());
        Self { lines: BufReader::new(child.stdout.take().unwrap()), child }
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        if self.lines.read_line(&mut line).unwrap() == 0 {
            let mut said = String::new();
            self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("exec has ended: {:?} {said}", self.child.wait());
        }
        line.trim_end().to_owned()
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ended(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells its secret, then waits for a signal that it tells, too.
const SERVER: &str = r#"
    trap 'echo HUP $DB' HUP; trap 'echo TERM $DB; exit 7' TERM
    echo "start $DB"
    while :; do read -t 1 <> <(:) ; done
"#;

fn stage() -> (Runtime, TestBroker, Caller) {
    let runtime = Runtime::new().unwrap();
    let broker = runtime.block_on(TestBroker::start());
    runtime.block_on(broker.put("db", b"first", &[]));
    let caller = Caller::of(&broker, "operator", &broker.operator);
    (runtime, broker, caller)
}

#[test]
fn the_command_has_the_secret_in_its_environment_and_its_exit_code_is_passed_on() {
    let (_runtime, _broker, caller) = stage();
    let shell = |script: &str| caller.run(&["exec", "--env", "DB=local/db", "--", "bash", "-c", script]);
    let ran = shell("echo $DB; tr '\\0' ' ' < /proc/$PPID/cmdline; exit 42");
    assert!(ran.code == 42 && ran.text().starts_with("first\n"), "{ran:?}");
    assert_eq!(ran.text().matches("first").count(), 1, "in no argument: {ran:?}");
    assert_eq!(shell("kill -KILL $$").code, 137);
    caller.run(&["exec", "--env", "DB=local/db", "--", "/absent"]).failed(127, "cannot run /absent");
    caller.run(&["exec", "--env", "DB=local/db", "--", "/etc/passwd"]).failed(126, "cannot run /etc/passwd");
    for (arguments, code, why) in [
        (["--env", "DB=local/none", "--", "true"].as_slice(), 5, "stores/local/secrets/none: the broker refused"),
        (&["--env", "DB", "--", "true"], 2, "write NAME=STORE/SECRET"),
        (&["--env", "DB=local/db"], 2, "required"),
        (&["--env", "DB=local/db", "--on-rotation", "signal:NO", "--", "true"], 2, "signal:HUP"),
        (&["--env", "DB=local/db", "--server", "https://127.0.0.1:1", "--", "true"], 8, "127.0.0.1:1"),
        (&["--env", "DB=local/db", "--own-token-file", "/absent", "--", "true"], 4, "/absent"),
    ] {
        caller.run(&[&["exec"], arguments].concat()).failed(code, why);
    }
}

#[test]
fn a_rotation_restarts_the_command_with_the_new_value_and_its_own_end_is_the_end() {
    let (runtime, broker, caller) = stage();
    let mut running =
        Running::start(&caller, &["--env", "DB=local/db", "--subscriber", "web", "--", "bash", "-c", SERVER]);
    assert_eq!(running.line(), "start first");
    runtime.block_on(broker.put("db", b"second", &[]));
    assert_eq!((running.line(), running.line()), ("TERM first".to_owned(), "start second".to_owned()));
    let runs = || caller.run(&["subscribers", "--json"]).json()[0]["versions"][0]["version"].clone();
    while runs() != "stores/local/secrets/db/versions/2" {}
    running.send(Signal::HUP);
    assert_eq!(running.line(), "HUP second");
    running.send(Signal::TERM);
    assert_eq!((running.line(), running.ended()), ("TERM second".to_owned(), Some(7)));
}

#[test]
fn a_command_that_does_not_end_within_its_grace_is_killed() {
    let (runtime, broker, caller) = stage();
    let stubborn = "trap '' TERM; echo \"start $DB\"; while :; do sleep 1; done";
    let mut running =
        Running::start(&caller, &["--env", "DB=local/db", "--grace", "50ms", "--", "bash", "-c", stubborn]);
    assert_eq!(running.line(), "start first");
    runtime.block_on(broker.put("db", b"second", &[]));
    assert_eq!(running.line(), "start second");
    running.send(Signal::KILL);
}

#[test]
fn a_command_can_be_told_of_a_rotation_or_left_alone() {
    let (runtime, broker, caller) = stage();
    let start = |what: &str| {
        Running::start(&caller, &["--env", "DB=local/db", "--on-rotation", what, "--", "bash", "-c", SERVER])
    };
    let (mut told, mut left) = (start("signal:HUP"), start("none"));
    assert_eq!((told.line(), left.line()), ("start first".to_owned(), "start first".to_owned()));
    runtime.block_on(broker.put("db", b"second", &[]));
    assert_eq!(told.line(), "HUP first", "the environment of a process that runs stays");
    left.send(Signal::TERM);
    assert_eq!(left.line(), "TERM first", "nothing was heard before");
}

#[test]
fn the_command_runs_on_while_the_broker_is_away_and_hears_of_what_happened_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::new("test CA");
    prepare(directory.path(), &ca, "");
    let broker = Process::serve(directory.path());
    let port = broker.grpc().port();
    let config = directory.path().join("keyferry.toml");
    let text = fs::read_to_string(&config).unwrap().replacen("127.0.0.1:0", &format!("127.0.0.1:{port}"), 1);
    fs::write(&config, text).unwrap();
    let caller = Caller::at(directory.path(), "operator", &ca.client("operator"), port);
    caller.run_with_input(&["put", "local/db", "--create"], b"first").done();
    let mut running = Running::start(&caller, &["--env", "DB=local/db", "--", "bash", "-c", SERVER]);
    assert_eq!(running.line(), "start first");
    broker.kill();
    running.send(Signal::HUP);
    assert_eq!(running.line(), "HUP first");
    let _again = Process::serve(directory.path());
    caller.run_with_input(&["put", "local/db"], b"second").done();
    assert_eq!((running.line(), running.line()), ("TERM first".to_owned(), "start second".to_owned()));
}
