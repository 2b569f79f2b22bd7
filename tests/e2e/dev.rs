//! The first command of the README: what it prints works when pasted.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use keyferry_tests::process::keyferry;

struct Dev {
    child: Child,
    printed: String,
    _log: std::thread::JoinHandle<()>,
}

impl Dev {
    fn start(directory: &Path) -> Self {
        let mut child = Command::new(keyferry())
            .args(["dev", "--listen", "127.0.0.1:0", "--web", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--dir"])
            .arg(directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = log.read_to_string(&mut text);
        });
        let mut printed = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        while !printed.contains("it is reloaded") {
            assert!(lines.read_line(&mut printed).unwrap() > 0, "dev ended: {printed}");
        }
        Self { child, printed, _log: log }
    }

    /// The commands that it printed: indented by two.
    fn commands(&self) -> Vec<&str> {
        self.printed.lines().filter_map(|line| line.strip_prefix("  ")).collect()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bash(script: &str) -> (bool, String) {
    let output = Command::new("bash").arg("-c").arg(script).output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.success(), text.concat())
}

#[test]
fn what_dev_prints_works_when_pasted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(".keyferry-dev");
    let dev = Dev::start(&path);
    let commands = dev.commands();
    let functions: Vec<_> = commands.iter().copied().filter(|line| line.contains("() {")).collect();
    let calls: Vec<_> =
        commands.iter().copied().filter(|line| line.starts_with("kf")).filter(|l| !l.contains("() {")).collect();
    assert!(functions.len() == 2 && calls.len() >= 6, "{}", dev.printed);
    let paste = |line: &str| bash(&format!("{}\n{line}", functions.join("\n")));

    for line in &calls {
        let (good, said) = paste(line);
        assert_eq!(good, !line.contains("# hidden"), "{line}\n{said}");
        if line.contains("# hidden") {
            assert!(said.contains("SECRET_NOT_FOUND"), "{said}");
        }
    }
    let (_, listed) = paste(calls[0]);
    assert!(listed.contains("keyferry.v1.SecretService") && listed.contains("grpc.health.v1.Health"), "{listed}");
    let (_, read) = paste(calls[1]);
    assert!(read.contains("\"payload\""), "{read}");
    let minted = calls.iter().find(|line| line.contains("MintDatabaseToken")).unwrap();
    assert!(paste(minted).1.contains("\"accessToken\""), "{}", paste(minted).1);

    // Without a certificate, with one from another CA, in plain text: refused.
    let address = calls[0].split_whitespace().nth(1).unwrap();
    let other = tempfile::tempdir().unwrap();
    let _other = Dev::start(&other.path().join("dev"));
    let other = other.path().join("dev");
    for flags in [
        format!("-cacert {}/ca.pem", path.display()),
        format!(
            "-cacert {}/ca.pem -cert {}/client.pem -key {}/client.key",
            path.display(),
            other.display(),
            other.display()
        ),
        "-plaintext".to_owned(),
    ] {
        let (good, said) = bash(&format!("grpcurl -max-time 10 {flags} {address} list"));
        assert!(!good, "{flags} was let in: {said}");
    }

    // The command's own lines, from where dev was started: its profile is found.
    let mut own = commands.iter().filter(|line| line.contains(" get local/hello"));
    let (good, said) = bash(&format!("cd {} && {}", directory.path().display(), own.next().unwrap()));
    assert!(good && said == "world 2", "{said}");

    let verify = format!("{} audit verify {}/audit", keyferry().display(), path.display());
    let (good, said) = bash(&verify);
    assert!(good, "{said}");
}

#[test]
fn the_configuration_that_dev_writes_is_one_that_serve_accepts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dev");
    drop(Dev::start(&path));
    let config = path.join("keyferry.toml");
    let (good, said) = bash(&format!("{} check --config {}", keyferry().display(), config.display()));
    assert!(good, "{said}");
    drop(keyferry_tests::process::Process::serve(&path));
}

#[test]
fn dev_started_again_keeps_its_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dev");
    let add = |dev: &Dev| {
        let commands = dev.commands();
        let script: Vec<_> = commands
            .iter()
            .filter(|line| line.contains("() {") || line.contains("AddSecretVersion"))
            .copied()
            .collect();
        let (good, said) = bash(&script.join("\n"));
        assert!(good, "{said}");
        said
    };
    let first = add(&Dev::start(&path));
    assert!(first.contains("versions/2"), "{first}");
    let second = add(&Dev::start(&path));
    assert!(second.contains("versions/3"), "{second}");
}

#[test]
fn what_the_guide_to_json_shows_works_when_pasted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dev");
    let dev = Dev::start(&path);
    let address =
        dev.commands().iter().find_map(|line| line.strip_prefix("kf ")?.split(' ').next()).unwrap().to_owned();
    let guide = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json.md")).unwrap();
    let blocks: Vec<_> = guide.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 2);
    let script = blocks.concat().replace(".keyferry-dev", path.to_str().unwrap()).replace("localhost:7443", &address);
    let script = script.replace("curl -sS", "curl -sS -w '\\n%{http_code}\\n'");
    let (good, said) = bash(&format!("set -e\n{script}"));
    let answers: Vec<_> = said.lines().filter(|line| *line == "200").collect();
    assert!(good && answers.len() == 5, "{said}");
}
