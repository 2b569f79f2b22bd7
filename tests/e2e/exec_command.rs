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

    fn complaint(&mut self) -> String {
        let mut said = String::new();
        BufReader::new(self.child.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
        said
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
fn a_value_that_no_variable_can_hold_leaves_the_command_as_it_is() {
    let (runtime, broker, caller) = stage();
    runtime.block_on(broker.put("bad", b"a\0b", &[]));
    let refused = caller.run(&["exec", "--env", "DB=local/bad", "--", "true"]);
    refused.failed(1, "stores/local/secrets/bad holds a zero byte");
    let arguments = ["--env", "DB=local/db", "--interval", "10ms", "--", "bash", "-c", SERVER];
    let mut running = Running::start(&caller, &arguments);
    assert_eq!(running.line(), "start first");
    runtime.block_on(broker.put("db", b"a\0b", &[]));
    let said = running.complaint();
    assert!(said.contains("stores/local/secrets/db holds a zero byte") && said.contains("runs on"), "{said}");
    running.send(Signal::HUP);
    assert_eq!(running.line(), "HUP first");
    runtime.block_on(broker.put("db", b"third", &[]));
    assert_eq!((running.line(), running.line()), ("TERM first".to_owned(), "start third".to_owned()));
}

#[test]
fn a_signal_before_the_command_runs_ends_it() {
    let (_runtime, broker, _) = stage();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let caller = Caller::at(broker.path(), "operator", &broker.operator, silent.local_addr().unwrap().port());
    let mut running = Running::start(&caller, &["--env", "DB=local/db", "--", "echo", "started"]);
    // Connected, and waiting for an answer.
    let _connection = silent.accept().unwrap();
    running.send(Signal::TERM);
    assert_eq!(running.ended(), Some(128 + Signal::TERM.as_raw()));
    assert_eq!(running.lines.fill_buf().unwrap(), b"");
}

#[test]
fn a_burst_of_rotations_restarts_the_command_no_more_often_than_its_interval() {
    let (runtime, broker, caller) = stage();
    let server = "trap 'exit' TERM; echo $DB ${EPOCHREALTIME%.*}; while :; do read -t 1 <> <(:) ; done";
    let arguments = ["--env", "DB=local/db", "--interval", "8s", "--", "bash", "-c", server];
    let mut running = Running::start(&caller, &arguments);
    let mut line = || {
        let line = running.line();
        let (value, second) = line.split_once(' ').unwrap();
        (value.to_owned(), second.parse::<u64>().unwrap())
    };
    assert_eq!(line().0, "first");
    runtime.block_on(broker.put("db", b"0", &[]));
    let mut starts = vec![line()];
    for value in 1..=5 {
        runtime.block_on(broker.put("db", value.to_string().as_bytes(), &[]));
    }
    while starts.last().unwrap().0 != "5" {
        starts.push(line());
    }
    // A process may be late to tell its time.
    assert!(starts.windows(2).all(|two| two[1].1 >= two[0].1 + 4), "{starts:?}");
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
