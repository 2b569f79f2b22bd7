//! `keyferry render`: files made of secrets, whole or not at all.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use keyferry_tests::broker::TestBroker;
use keyferry_tests::command::{Caller, Ran};
use tokio::runtime::Runtime;

struct Stage {
    runtime: Runtime,
    broker: TestBroker,
    caller: Caller,
    template: PathBuf,
    target: PathBuf,
}

impl Stage {
    fn new(template: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let broker = runtime.block_on(TestBroker::start());
        let caller = Caller::of(&broker, "operator", &broker.operator);
        let out = broker.path().join("out");
        fs::create_dir(&out).unwrap();
        let stage =
            Self { template: broker.path().join("app.tmpl"), target: out.join("app.conf"), runtime, broker, caller };
        stage.put("first");
        fs::write(&stage.template, template).unwrap();
        stage
    }

    fn put(&self, password: &str) {
        let document = format!(r#"{{"user": "app", "password": "{password}"}}"#);
        self.runtime.block_on(self.broker.put("db", document.as_bytes(), &[]));
    }

    fn pair(&self) -> String {
        format!("{}={}", self.template.display(), self.target.display())
    }

    fn once(&self, more: &[&str]) -> Ran {
        self.caller.run(&[&["render", &self.pair(), "--once"], more].concat())
    }

    fn rendered(&self) -> String {
        fs::read_to_string(&self.target).unwrap()
    }

    /// Nothing but the file itself.
    fn beside(&self) -> Vec<String> {
        let entries = fs::read_dir(self.target.parent().unwrap()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

const TEMPLATE: &str = "user = {{ secret \"local/db\" | json \"user\" }}\n{{ \"{{\" }}{{ secret \"local/db\" | json \"password\" | base64 }}\n";

#[test]
fn a_template_becomes_a_file_with_its_mode_and_owner() {
    let stage = Stage::new(TEMPLATE);
    let own = rustix::process::geteuid().as_raw();
    let said = stage.once(&["--mode", "640", "--owner", &own.to_string(), "--", "sh", "-c", "echo reloaded"]).done();
    assert_eq!(said, format!("wrote {}\nreloaded\n", stage.target.display()));
    assert_eq!(stage.rendered(), "user = app\n{{Zmlyc3Q=\n");
    let about = fs::metadata(&stage.target).unwrap();
    assert_eq!((about.permissions().mode() & 0o777, about.uid()), (0o640, own));
    assert_eq!(stage.once(&["--mode", "640", "--", "echo", "reloaded"]).done(), "", "nothing has changed");
    stage.once(&[]).done();
    assert_eq!(fs::metadata(&stage.target).unwrap().permissions().mode() & 0o777, 0o600);
    if own == 0 {
        stage.once(&["--owner", "nobody"]).done();
        assert_ne!(fs::metadata(&stage.target).unwrap().uid(), 0);
    }
}

#[test]
fn a_rotation_renders_again_and_runs_the_command() {
    let stage = Stage::new(TEMPLATE);
    let pair = stage.pair();
    let arguments = ["render", &pair, "--subscriber", "files", "--", "sh", "-c", "echo reloaded"];
    let mut rendering = stage.caller.start(&arguments);
    let mut lines = BufReader::new(rendering.stdout.take().unwrap()).lines();
    let mut until_reloaded = || while lines.next().unwrap().unwrap() != "reloaded" {};
    until_reloaded();
    assert_eq!(stage.rendered(), "user = app\n{{Zmlyc3Q=\n");
    stage.put("second");
    until_reloaded();
    assert_eq!(stage.rendered(), "user = app\n{{c2Vjb25k\n");
    let subscribers = stage.caller.run(&["subscribers", "--json"]).json();
    assert_eq!(subscribers[0]["versions"][0]["version"], "stores/local/secrets/db/versions/2");
    // A value that the template can do nothing with: the old file stays, and the next good one is taken.
    stage.runtime.block_on(stage.broker.put("db", b"no JSON", &[]));
    let said = BufReader::new(rendering.stderr.take().unwrap()).lines().next().unwrap().unwrap();
    assert!(said.contains("app.tmpl:1: stores/local/secrets/db holds no JSON; the files stay"), "{said}");
    assert_eq!(stage.rendered(), "user = app\n{{c2Vjb25k\n");
    stage.put("third");
    until_reloaded();
    assert_eq!(stage.rendered(), "user = app\n{{dGhpcmQ=\n");
    rustix::process::kill_process(rustix::process::Pid::from_child(&rendering), rustix::process::Signal::TERM).unwrap();
    assert_eq!(rendering.wait().unwrap().code(), Some(0));
}

#[test]
fn what_cannot_be_rendered_leaves_the_old_file_and_says_where_and_why() {
    let stage = Stage::new(TEMPLATE);
    stage.once(&[]).done();
    let before = stage.rendered();
    let fails = |template: &str, code: i32, why: &str| {
        fs::write(&stage.template, template).unwrap();
        stage.once(&[]).failed(code, why);
        assert_eq!(stage.rendered(), before);
    };
    fails("\n\n{{ secret \"local/none\" }}", 5, "app.tmpl:3: stores/local/secrets/none: the broker refused: ");
    fails("\n{{ secret \"local/db\" | upper }}", 2, "app.tmpl:2: there are two filters");
    fails("{{ secret \"local/db\" | json \"port\" }}", 1, "app.tmpl:1: stores/local/secrets/db has no field \"port\"");
    fs::write(&stage.template, TEMPLATE).unwrap();
    let away = stage.once(&["--server", "https://127.0.0.1:1"]);
    away.failed(8, "127.0.0.1:1");
    stage.once(&["--own-token-file", "/absent"]).failed(4, "/absent");
    stage.once(&["--mode", "999"]).failed(2, "write it like 640");
    stage.once(&["--owner", "nobody-like-this"]).failed(2, "there is no nobody-like-this");
    fs::remove_file(&stage.template).unwrap();
    stage.once(&[]).failed(2, "cannot read ");
    assert_eq!(stage.rendered(), before);

    let nowhere = format!("{}=/absent/file", Path::new("/dev/null").display());
    stage.caller.run(&["render", &nowhere, "--once"]).failed(1, "cannot write /absent/file");
    stage.caller.run(&["render", "no-pair", "--once"]).failed(2, "write TEMPLATE=FILE");
}

#[test]
fn a_command_past_its_limit_is_stopped_and_said_to_be() {
    let stage = Stage::new(TEMPLATE);
    let ran = stage.once(&["--limit", "100ms", "--", "sh", "-c", "echo started; exec sleep 600"]);
    ran.failed(1, "sh was stopped, since it did not end within 100ms");
    stage.once(&["--limit", "1m"]).failed(2, "required");
}

#[test]
fn renders_of_one_file_at_one_time_leave_one_of_them_whole() {
    let stage = Stage::new(TEMPLATE);
    let contents = ["x", "y"].map(|letter| format!("{TEMPLATE}{}", letter.repeat(1 << 20)));
    let pairs = [0, 1].map(|at| {
        let template = stage.template.with_extension(at.to_string());
        fs::write(&template, &contents[at]).unwrap();
        format!("{}={}", template.display(), stage.target.display())
    });
    for _ in 0..5 {
        let renders = [0, 1, 0, 1].map(|at| stage.caller.start(&["render", &pairs[at], "--once"]));
        for render in renders {
            Ran::from(render.wait_with_output().unwrap()).done();
        }
        let rendered = stage.rendered();
        assert!(["x", "y"].iter().any(|letter| rendered.ends_with(&letter.repeat(1 << 20))));
        assert_eq!(stage.beside(), ["app.conf"]);
    }
}

#[test]
fn a_render_that_is_killed_in_the_middle_of_writing_leaves_the_old_file_whole() {
    let stage = Stage::new(TEMPLATE);
    stage.once(&[]).done();
    let before = stage.rendered();
    stage.put("second");
    let long = format!("{TEMPLATE}{}", "x".repeat(1 << 16));
    fs::write(&stage.template, &long).unwrap();
    // The kernel ends the process as soon as a file of its own passes 8 KiB.
    let pair = stage.pair();
    let render = stage.caller.command(&["render", &pair, "--once"]);
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", "ulimit -f 8; exec \"$0\" \"$@\""]).arg(render.get_program()).args(render.get_args());
    shell.envs(render.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran: Ran = shell.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap().into();
    assert_eq!(ran.code, 128 + 25, "not killed by SIGXFSZ: {ran:?}");
    assert_eq!(stage.rendered(), before);
    let mut left = stage.beside();
    left.sort();
    assert!(left.len() == 2 && left[0].starts_with(".app.conf.keyferry-"), "not killed in the middle: {left:?}");
    let mode = fs::metadata(stage.target.with_file_name(&left[0])).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "what is left is nobody else's to read");

    stage.once(&[]).done();
    assert_eq!(stage.beside(), ["app.conf"]);
    assert!(stage.rendered().starts_with("user = app\n{{c2Vjb25k\nxxx"), "the new file is there");
}
