//! Clients in other languages, on stubs generated for them: `tests/clients`, which `docs/clients.md` shows.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::{ListSubscribersRequest, RotateSecretRequest, RotationState};
use keyferry_tests::broker::endpoint;
use keyferry_tests::process::{Process, keyferry};
use keyferry_tests::proxy::{Mood, Proxy};
use tempfile::TempDir;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::reload::eventually;
use crate::rotation::{add, get, list};

pub(crate) struct Language {
    pub(crate) name: &'static str,
    build: &'static str,
    run: &'static str,
}

/// Commands of a shell in the project, whose folder `gen` has the stubs.
pub(crate) const LANGUAGES: [Language; 4] = [
    Language { name: "go", build: "CGO_ENABLED=0 GOTOOLCHAIN=local go build -o client .", run: "exec ./client" },
    Language {
        name: "java",
        // The plain compiler: the other one warms up for longer than this takes.
        build: "javac -J-XX:TieredStopAtLevel=1 -cp \"$TOOLS/maven/grpc-java/*\" -sourcepath gen -d built Watch.java",
        run: "exec java -XX:TieredStopAtLevel=1 -cp \"built:$TOOLS/maven/grpc-java/*\" Watch",
    },
    Language {
        name: "python",
        build: "true",
        run: "PYTHONPATH=gen exec \"$TOOLS/pypi/grpc-python/bin/python\" watch.py",
    },
    Language {
        name: "typescript",
        build: "ln -s \"$TOOLS/npm/grpc-typescript/node_modules\" . && node_modules/.bin/tsc",
        run: "exec node built/watch.js",
    },
];

pub(crate) const ROTATED: &str = "stores/local/secrets/db-password";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_in_four_languages_follow_rotations_over_a_broker_that_dies() {
    let projects = build();
    let (dev, ports) = (TempDir::new().unwrap(), ["--listen", "--web", "--admin"].map(|port| [port, "127.0.0.1:0"]));
    let directory = dev.path();
    let mut command = Command::new(keyferry());
    let broker = Process::start(command.arg("dev").args(ports.as_flattened()).arg("--dir").arg(directory));
    let proxy = Proxy::start("127.0.0.1", broker.grpc().port()).await;
    let mut clients: Vec<_> =
        LANGUAGES.iter().map(|language| Client::start(language, projects.path(), directory, proxy.port())).collect();
    let mut expected = vec![
        "read stores/local/secrets/hello/versions/1".to_owned(),
        "refused SECRET_NOT_FOUND".to_owned(),
        "minted app".to_owned(),
        format!("snapshot {ROTATED}/versions/1"),
    ];
    all_told(&mut clients, &expected);

    let mut operator = RotationServiceClient::new(connect(directory, &broker).await);
    let rotation = rotate(&mut operator).await;
    expected.push(format!("event {ROTATED}/versions/2"));
    all_told(&mut clients, &expected);
    let rotation = get(&mut operator, &rotation).await;
    assert_eq!((rotation.acknowledged_count, rotation.pending_count), (4, 0));

    proxy.mood().send_replace(Mood::Cutting);
    broker.kill();
    let broker = Process::serve(directory);
    let channel = connect(directory, &broker).await;
    let (mut operator, mut secrets) = (RotationServiceClient::new(channel.clone()), SecretServiceClient::new(channel));
    rotate(&mut operator).await;
    proxy.lead_to(broker.grpc().port());
    proxy.mood().send_replace(Mood::Passing);
    expected.push(format!("event {ROTATED}/versions/3"));
    all_told(&mut clients, &expected);

    // What is lost between an event and its acknowledgement is told again.
    let lost: Vec<_> = clients.iter().map(Client::logged).collect();
    proxy.mood().send_replace(Mood::SwallowingRequests);
    // One event, unlike a rotation: nothing is said before it.
    add(&mut secrets, ROTATED, b"by hand").await;
    eventually("all lost their connections", async || {
        clients.iter().zip(&lost).all(|(one, lost)| one.logged() > *lost)
    })
    .await;
    proxy.mood().send_replace(Mood::Passing);
    expected.push(format!("event {ROTATED}/versions/4"));
    all_told(&mut clients, &expected);
    let subscribers = operator.list_subscribers(ListSubscribersRequest::default()).await.unwrap().into_inner();
    let running: Vec<_> = (subscribers.subscribers.iter())
        .map(|one| (one.caller.as_str(), one.subscriber.as_str(), one.versions[0].version.as_str()))
        .collect();
    let newest = format!("{ROTATED}/versions/4");
    assert_eq!(running, LANGUAGES.map(|language| ("oidc/dev/dev-workload", language.name, newest.as_str())));
    for client in clients {
        assert_eq!(client.end(), expected);
    }
}

#[test]
fn what_the_documentation_shows_of_the_clients_is_what_they_are() {
    let read = |path: &str| {
        let text = fs::read_to_string(in_repository(path)).unwrap();
        // Parts are shown with less indentation than they have.
        text.lines().flat_map(|line| [line.trim(), "\n"]).collect::<String>()
    };
    let shown = read("docs/clients.md");
    let mut count = 0;
    for (language, file) in
        [("go", "main.go"), ("java", "Watch.java"), ("python", "watch.py"), ("typescript", "watch.ts")]
    {
        let program = read(&format!("tests/clients/{language}/{file}"));
        for block in shown.split(&format!("```{language}\n")).skip(1) {
            let block = block.split("```").next().unwrap();
            assert!(program.contains(block), "docs/clients.md shows what {file} does not have:\n{block}");
            count += 1;
        }
    }
    assert!(count >= 12, "docs/clients.md shows {count} parts of the clients");
}

/// The projects of all languages, built.
pub(crate) fn build() -> TempDir {
    let projects = TempDir::new().unwrap();
    shell(
        projects.path(),
        &format!("'{}' && cp -r '{}'/* .", in_repository("tools/stubs"), in_repository("tests/clients")),
    );
    thread::scope(|scope| {
        for Language { name, build, .. } in &LANGUAGES {
            let (project, stubs) = (projects.path().join(name), projects.path().join("gen").join(name));
            fs::rename(stubs, project.join("gen")).unwrap();
            scope.spawn(move || shell(&project, build));
        }
    });
    projects
}

fn shell(directory: &Path, script: &str) {
    let output = in_shell(directory, script).output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "`make test` installs what this needs: {script}\n{said}");
}

fn in_shell(directory: &Path, script: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", script]).current_dir(directory).env("TOOLS", in_repository(".tools"));
    command
}

fn in_repository(path: &str) -> String {
    format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))
}

/// As the operator.
pub(crate) async fn connect(directory: &Path, broker: &Process) -> Channel {
    let read = |file: &str| fs::read(directory.join(file)).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("ca.pem")))
        .identity(Identity::from_pem(read("operator.pem"), read("operator.key")));
    endpoint(broker.grpc().port(), tls).connect().await.unwrap()
}

/// Starts a rotation, and returns its name once its version is the current one.
pub(crate) async fn rotate(operator: &mut RotationServiceClient<Channel>) -> String {
    let request = RotateSecretRequest { name: ROTATED.to_owned(), force: true, ..Default::default() };
    eventually("it starts", async || operator.clone().rotate_secret(request.clone()).await.is_ok()).await;
    let name = list(operator).await.remove(0).name;
    let reached = [RotationState::Current, RotationState::Retiring, RotationState::Retired];
    eventually("it is current", async || reached.contains(&get(&mut operator.clone(), &name).await.state())).await;
    name
}

/// A running program and what it printed.
pub(crate) struct Client {
    name: &'static str,
    process: Child,
    lines: Receiver<String>,
    told: Vec<String>,
    log: PathBuf,
}

impl Client {
    pub(crate) fn start(language: &Language, projects: &Path, dev: &Path, port: u16) -> Self {
        let project = projects.join(language.name);
        let log = project.join("log");
        let mut process = in_shell(&project, language.run)
            .env("KEYFERRY_SERVER", format!("https://localhost:{port}"))
            .env("KEYFERRY_CA", dev.join("ca.pem"))
            .env("KEYFERRY_CERT", dev.join("client.pem"))
            .env("KEYFERRY_KEY", dev.join("client.key"))
            .env("KEYFERRY_TOKEN_FILE", dev.join("token.jwt"))
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let (printed, lines) = channel();
        let output = BufReader::new(process.stdout.take().unwrap());
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| printed.send(line)));
        Self { name: language.name, process, lines, told: Vec::new(), log }
    }

    /// How much it has said of lost connections.
    fn logged(&self) -> u64 {
        fs::metadata(&self.log).unwrap().len()
    }

    /// Everything that it printed until it was killed.
    fn end(mut self) -> Vec<String> {
        self.process.kill().unwrap();
        let mut told = std::mem::take(&mut self.told);
        told.extend(self.lines.iter());
        told
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns once each client has printed as many lines, and these.
pub(crate) fn all_told(clients: &mut [Client], expected: &[String]) {
    for client in clients {
        while client.told.len() < expected.len() {
            let Ok(line) = client.lines.recv_timeout(Duration::from_secs(60)) else {
                let log = fs::read_to_string(&client.log).unwrap();
                panic!("{} told {:#?}\n{log}", client.name, client.told);
            };
            client.told.push(line);
        }
        assert_eq!(client.told, expected, "{}", client.name);
    }
}
