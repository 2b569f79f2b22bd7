//! The real `keyferry` binary as a process of its own: started, asked for its port, killed.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process};

/// Builds the binary once a suite, with the profile that the suite itself has. `KF_TEST_KEYFERRY` names another, such as
/// a release's.
pub fn keyferry() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(binary) = std::env::var_os("KF_TEST_KEYFERRY") {
            return binary.into();
        }
        // …/target/<profile>/deps/<suite>
        let suite = std::env::current_exe().unwrap();
        let profile = suite.parent().and_then(Path::parent).unwrap();
        let mut build = Command::new(env!("CARGO"));
        // As part of a test, with the whole workspace: any other way would build its dependencies with other features.
        build.args(["test", "--workspace", "--locked", "--quiet", "--no-run", "--test", "version"]);
        for (feature, is_on) in [("etcd", cfg!(feature = "etcd")), ("sqlx", cfg!(feature = "sqlx"))] {
            if is_on {
                build.args(["--features", &format!("keyferry-tests/{feature}")]);
            }
        }
        if profile.ends_with("release") {
            build.arg("--release");
        }
        build.arg("--target-dir").arg(profile.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().unwrap().success(), "keyferry does not build");
        profile.join("keyferry")
    })
}

/// A serving `keyferry serve`; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    grpc: SocketAddr,
    admin: SocketAddr,
    web: Option<SocketAddr>,
    /// Keeps the pipe open and drained.
    reader: Option<std::thread::JoinHandle<Vec<String>>>,
}

impl Process {
    /// Starts on a directory that [`crate::broker::prepare`] filled, and returns once it answers.
    pub fn serve(directory: &Path) -> Self {
        Self::start(Command::new(keyferry()).args(["serve", "--config"]).arg(directory.join("keyferry.toml")))
    }

    /// Any program that logs where it serves, as `keyferry serve` does.
    pub fn start(program: &mut Command) -> Self {
        let mut child = program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (mut lines, addresses) = read_until_serving(&mut log);
        let Some(Addresses { grpc, admin, web }) = addresses else {
            let _ = child.kill();
            panic!("keyferry did not start: {lines:#?}, {:?}", child.wait());
        };
        let reader = std::thread::spawn(move || {
            lines.extend(log.lines().map_while(Result::ok));
            lines
        });
        Self { child, grpc, admin, web, reader: Some(reader) }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Where it has such a port.
    pub fn web(&self) -> Option<SocketAddr> {
        self.web
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// kill -9, and what it had logged.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap()
    }

    /// SIGTERM, and whether it ended well.
    pub fn terminate(self) -> (bool, Vec<String>) {
        let (ended, log) = self.end_by(Signal::TERM);
        (ended.success(), log)
    }

    pub fn end_by(mut self, signal: Signal) -> (ExitStatus, Vec<String>) {
        self.signal(signal);
        let ended = self.child.wait().unwrap();
        (ended, self.reader.take().unwrap().join().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Addresses {
    grpc: SocketAddr,
    admin: SocketAddr,
    web: Option<SocketAddr>,
}

/// The log says where it listens once it does.
fn read_until_serving(log: &mut BufReader<ChildStderr>) -> (Vec<String>, Option<Addresses>) {
    let mut lines = Vec::new();
    let mut line = String::new();
    while log.read_line(&mut line).unwrap() > 0 {
        lines.push(line.trim_end().to_owned());
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let address = |field: &str| entry[field].as_str().and_then(|text| text.parse().ok());
        if let (Some(grpc), Some(admin)) = (address("grpc"), address("admin")) {
            return (lines, Some(Addresses { grpc, admin, web: address("web") }));
        }
        line.clear();
    }
    (lines, None)
}
