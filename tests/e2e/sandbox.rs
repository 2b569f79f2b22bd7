//! The sandbox: what it prints works when pasted, what is typed breaks and mends it, and nothing of it stays behind.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use keyferry_broker::clock::{Clock as _, SystemClock};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

/// Within which whatever must happen has happened.
const BOUND: Duration = Duration::from_secs(60);

struct Sandbox {
    child: Child,
    printed: String,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    log: NamedTempFile,
}

impl Sandbox {
    fn start() -> Self {
        let log = NamedTempFile::new().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sandbox"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap();
        let (input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut printed = String::new();
        while !printed.contains("callers\n\n") {
            assert!(output.read_line(&mut printed).unwrap() > 0, "the sandbox ended: {}", read(&log));
        }
        Self { child, printed, input, output, log }
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        assert_eq!(answer, "done\n", "{command}");
    }

    /// The commands that it printed, indented by two, of which one with these words; as if pasted.
    fn paste(&self, words: &str) -> (bool, String) {
        let lines: Vec<_> = self.printed.lines().filter_map(|line| line.strip_prefix("  ")).collect();
        let functions: Vec<_> = lines.iter().copied().filter(|line| line.contains("() {")).collect();
        let call = lines.iter().find(|line| line.starts_with("kf") && line.contains(words)).unwrap();
        let output = Command::new("bash").arg("-c").arg(format!("{}\n{call}", functions.join("\n"))).output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (output.status.success(), text.concat())
    }

    /// Pastes until what is said has these words in it.
    fn paste_until(&self, words: &str, awaited: &[&str]) -> String {
        let started = SystemClock.monotonic();
        loop {
            let (_, said) = self.paste(words);
            if awaited.iter().any(|awaited| said.contains(awaited)) {
                return said;
            }
            let late = SystemClock.monotonic() - started > BOUND;
            assert!(!late, "{words} never says {awaited:?}, but {said}\n{}", read(&self.log));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn directory(&self) -> PathBuf {
        let (_, rest) = self.printed.split_once("-cacert ").unwrap();
        Path::new(rest.split("/ca.pem").next().unwrap()).to_owned()
    }
}

fn read(log: &NamedTempFile) -> String {
    std::fs::read_to_string(log.path()).unwrap()
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Not killed, because it has a directory to remove.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

#[test]
fn both_clouds_are_read_broken_and_mended() {
    let mut sandbox = Sandbox::start();
    for (store, part, payload) in [("gcp", "gcp", "Y29ycmVjdC1ob3JzZQ=="), ("azure", "azure", "YmF0dGVyeS1zdGFwbGU=")] {
        let read = format!("stores/{store}");
        let (good, said) = sandbox.paste(&read);
        assert!(good && said.contains(payload), "{said}");

        sandbox.tell(&format!("fault {part} outage"));
        sandbox.paste_until(&read, &["STALE", "PROVIDER_UNAVAILABLE"]);
        sandbox.tell("clear");
        let said = sandbox.paste_until(&read, &["READ_SOURCE_PROVIDER", "READ_SOURCE_CACHE"]);
        assert!(said.contains(payload), "{said}");
    }
    let (good, said) = sandbox.paste("WhoAmI");
    assert!(good && said.contains("oidc/callers/somebody"), "{said}");
    let (good, said) = sandbox.paste("GetStatus");
    assert!(good && said.contains("managed-identity") && said.contains("entra"), "{said}");

    writeln!(sandbox.input, "fault gcp nonsense").unwrap();
    let mut answer = String::new();
    sandbox.output.read_line(&mut answer).unwrap();
    assert!(answer.contains("no fault"), "{answer}");
}

#[test]
fn reads_resume_after_google_has_refused_the_broker_once() {
    let mut sandbox = Sandbox::start();
    // Whatever token it may have by now is worth nothing, and the attempt at the next one is refused.
    // An attempt of the broker's own may meet the refusal before a read does; then it is for the next one.
    let said = (0..20).find_map(|_| {
        sandbox.tell("fault sts one-400");
        sandbox.tell("rotate-keys google");
        let (good, said) = sandbox.paste("stores/gcp");
        (!good).then_some(said)
    });
    assert!(said.as_ref().is_some_and(|said| said.contains("PROVIDER_CREDENTIAL")), "{said:?}");
    sandbox.paste_until("stores/gcp", &["Y29ycmVjdC1ob3JzZQ=="]);
}

#[test]
fn nothing_of_it_stays_behind() {
    for end in ["quit", "SIGTERM"] {
        let mut sandbox = Sandbox::start();
        let directory = sandbox.directory();
        assert!(directory.is_dir());
        if end == "quit" {
            writeln!(sandbox.input, "quit").unwrap();
        } else {
            kill_process(Pid::from_child(&sandbox.child), Signal::TERM).unwrap();
        }
        let ended = sandbox.child.wait().unwrap();
        assert!(ended.success(), "{end}: {ended}, {}", read(&sandbox.log));
        assert!(!directory.exists(), "{end}: {} is still there", directory.display());
    }
}

#[test]
fn it_listens_on_loopback_only() {
    let sandbox = Sandbox::start();
    let inodes: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", sandbox.child.id()))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut listening = 0;
    for table in ["tcp", "tcp6"] {
        let table = std::fs::read_to_string(format!("/proc/{}/net/{table}", sandbox.child.id())).unwrap();
        for line in table.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            // 0A is LISTEN.
            if fields[3] == "0A" && inodes.iter().any(|inode| inode == fields[9]) {
                assert!(fields[1].starts_with("0100007F:"), "listens on {}", fields[1]);
                listening += 1;
            }
        }
    }
    assert!(listening >= 7, "only {listening} listeners were found");
}
