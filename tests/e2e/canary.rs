//! Canaries in both clouds, in the local store, in tokens and in what is refused: nothing that the broker says, keeps or
//! leaves behind tells of them, whatever goes wrong around it.

use std::collections::HashMap;
use std::os::unix::fs::chown;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use keyferry_broker::clock::{Clock as _, SharedClock, SystemClock};
use keyferry_proto::v1::explain_access_request::Subject;
use keyferry_proto::v1::operator_service_client::OperatorServiceClient;
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::{
    AddSecretVersionRequest, BatchGetSecretsRequest, DisableSecretVersionRequest, EnableSecretVersionRequest,
    ExaminedToken, ExplainAccessRequest, GetSecretRequest, GetStatusRequest, ListSecretVersionsRequest,
    ListSecretsRequest, ReadSource, RefreshSecretRequest, WhoAmIRequest,
};
use keyferry_tests::broker::{endpoint, prepare};
use keyferry_tests::canary::{Canary, Evidence};
use keyferry_tests::collector::Collector;
use keyferry_tests::pki::Ca;
use keyferry_tests::process::{Process, keyferry};
use keyferry_tests::sandbox::{Clouds, Command as Sandbox};
use rustix::process::{Signal, geteuid};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// Longer than the broker waits for a store.
const PATIENCE: Duration = Duration::from_secs(5);
/// Within which a store that is well again is read again.
const BOUND: Duration = Duration::from_secs(60);
const STORES: [&str; 3] = ["local", "gcp", "azure"];
/// What any token of the clouds or of a caller begins with: `{"alg":`, and Google's own.
const TOKENS: [&str; 2] = ["eyJhbGciOi", "ya29."];
const NOBODY: u32 = 65_534;

struct World {
    clouds: Clouds,
    collector: Collector,
    directory: TempDir,
    broker: Process,
    canary: Canary,
    evidence: Evidence,
    callers: Vec<Caller>,
}

struct Caller {
    name: &'static str,
    channel: Channel,
    token: Option<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_told_by_no_log_audit_metric_trace_error_or_file() {
    let mut world = World::start().await;
    world.fill().await;
    world.call_everything("while all is well", &STORES).await;
    for store in ["gcp", "azure"] {
        for fault in ["one-400", "throttle", "outage", "garbage", "spill", "truncated-body"] {
            world.suffer(&format!("fault {store} {fault}"), &[store]).await;
        }
    }
    world.suffer("fault gcp wrong-crc", &["gcp"]).await;
    world.suffer("fault gcp slow-body", &["gcp"]).await;
    world.suffer("fault azure black-hole", &["azure"]).await;
    for fault in ["spill", "garbage"] {
        for part in ["metadata", "sts", "impersonation", "imds", "entra"] {
            world.tell(&format!("fault {part} {fault}"));
        }
        world.tell("rotate-keys google");
        world.suffer("rotate-keys entra", &["gcp", "azure"]).await;
    }
    world.finish();
}

impl World {
    async fn start() -> Self {
        let clock: SharedClock = Arc::new(SystemClock);
        let directory = TempDir::new().unwrap();
        let ca = Ca::new("test CA");
        let clouds = Clouds::start(&ca, &clock).await;
        let collector = Collector::start().await;
        let telemetry = format!(
            "[telemetry]\nlog_filter = \"trace\"\notlp_endpoint = \"{}\"\notlp_interval = \"1s\"\ntrace_permille = 1000\n",
            collector.url()
        );
        prepare(directory.path(), &ca, &format!("{}{telemetry}", clouds.configuration()));
        let broker = Process::serve(directory.path());
        let canary = Canary::hatch();
        let forged = format!("eyJhbGciOiJSUzI1NiJ9.{}.x", canary.text());
        let mut callers = Vec::new();
        for (name, certificate, token) in [
            ("operator", "operator", None),
            ("reader", "client", None),
            ("bearer", "client", Some(clouds.token(canary.text()))),
            ("stranger", "stranger", None),
            ("forger", "operator", Some(forged)),
        ] {
            let tls = ca.client(certificate).client_tls(&ca);
            let channel = endpoint(broker.grpc().port(), tls).connect().await.unwrap();
            callers.push(Caller { name, channel, token });
        }
        Self { clouds, collector, directory, broker, canary, evidence: Evidence::default(), callers }
    }

    async fn fill(&self) {
        let value = self.canary.value();
        self.clouds.secret_manager.create_secret(None, "db", &[]);
        self.clouds.secret_manager.add_version(None, "db", value.as_bytes());
        self.clouds.key_vault.put("db", &value, &[]);
        let mut request = addition("local", value.as_bytes());
        request.allow_missing = true;
        SecretServiceClient::new(self.callers[0].channel.clone()).add_secret_version(request).await.unwrap();
        for store in STORES {
            // The control: it is the canary that is read, and the search would find it.
            let read = self.read(store).await.unwrap();
            let mut told = Evidence::default();
            told.add("answer", read.payload.to_vec());
            assert_eq!(told.telling(&self.canary.forms()).len(), 1, "{store}");
        }
    }

    fn tell(&self, command: &str) {
        let parsed = Sandbox::parse(command).unwrap().unwrap();
        assert_eq!(self.clouds.obey(parsed), "done");
    }

    /// Everything is called while it is wrong, and what was meant to suffer did.
    async fn suffer(&mut self, command: &str, stores: &[&str]) {
        let before: HashMap<_, _> = stores.iter().map(|store| (*store, self.requests(store))).collect();
        self.tell(command);
        // What the cache has must have gone stale, or no store would be asked.
        for store in stores {
            let _ = self.read(store).await;
        }
        self.call_everything(command, stores).await;
        for store in stores {
            assert!(self.requests(store) > before[store], "{command} was never met");
        }
        self.tell("clear");
        for store in stores {
            self.recovered(store, command).await;
        }
    }

    async fn recovered(&self, store: &str, command: &str) {
        let started = SystemClock.monotonic();
        loop {
            let read = self.read(store).await;
            if read.as_ref().is_ok_and(|read| read.source() == ReadSource::Provider) {
                return;
            }
            assert!(SystemClock.monotonic() - started < BOUND, "{store} is never read again after {command}: {read:?}");
            tokio::task::yield_now().await;
        }
    }

    async fn read(&self, store: &str) -> Result<keyferry_proto::v1::GetSecretResponse, Status> {
        let mut client = SecretServiceClient::new(self.callers[0].channel.clone());
        let mut request = Request::new(reading(store, ""));
        request.get_mut().max_age = Some(prost_types::Duration::default());
        request.set_timeout(PATIENCE);
        client.get_secret(request).await.map(Response::into_inner)
    }

    fn requests(&self, store: &str) -> usize {
        if store == "gcp" { self.clouds.secret_manager.requests() } else { self.clouds.key_vault.requests() }
    }

    /// By every caller of all these stores at once, and what each was told.
    async fn call_everything(&mut self, when: &str, stores: &[&str]) {
        let pairs = self.callers.iter().flat_map(|caller| stores.iter().map(move |store| (caller, store)));
        let calls = pairs.map(|(caller, store)| caller.call_everything(store, &self.canary));
        for (place, said) in futures_util::future::join_all(calls).await.into_iter().flatten() {
            self.evidence.add(format!("{place} {when}"), said);
        }
        for page in ["/metrics", "/readyz", "/status"] {
            let said = self.admin(page).await;
            self.evidence.add(page, said);
        }
    }

    async fn admin(&self, page: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.broker.admin()).await.unwrap();
        let request = format!("GET {page} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    }

    fn finish(self) {
        let Self { clouds, collector, directory, broker, canary, mut evidence, .. } = self;
        let (ended_well, log) = broker.terminate();
        assert!(ended_well, "{log:#?}");
        evidence.add("log", log.join("\n"));
        collector.kept().into_iter().for_each(|(signal, message)| evidence.add(format!("OTLP {signal}"), message));
        evidence.add_files(directory.path());
        drop(clouds);

        // What is searched must be there, and must tell of the calls.
        let mut silent = vec![
            ("log", "\"level\":\"WARN\""),
            ("/metrics", "keyferry_call_failures_total"),
            ("OTLP traces", "keyferry.v1.SecretService/GetSecret"),
            ("OTLP metrics", "rpc.server.call.duration"),
            ("OTLP logs", "keyferry"),
            ("audit/", "stores/gcp/secrets/db"),
            ("GetSecret as stranger", "ACCESS_DENIED"),
            ("GetSecret as operator", "source: Stale"),
            ("RefreshSecret as operator", "PROVIDER_"),
        ];
        silent.retain(|(place, fact)| !evidence.of(place).any(|said| String::from_utf8_lossy(said).contains(fact)));
        assert!(silent.is_empty(), "nothing tells what was looked for: {silent:?}");
        let mut forms = canary.forms();
        forms.extend(TOKENS.map(str::to_owned));
        let telling = evidence.telling(&forms);
        assert!(telling.is_empty(), "{} places tell: {:#?}", telling.len(), &telling[..telling.len().min(10)]);
    }
}

impl Caller {
    async fn call_everything(&self, store: &str, canary: &Canary) -> Vec<(String, String)> {
        let mut said = Vec::new();
        let mut note = |method: &str, answer: String| said.push((format!("{method} as {}", self.name), answer));
        let mut secrets = SecretServiceClient::new(self.channel.clone());
        let mut operations = OperatorServiceClient::new(self.channel.clone());
        let name = || format!("stores/{store}/secrets/db");
        for end in ["", "/versions/1", "/versions/404", "/versions/..%2f", "/x", "\0"] {
            note("GetSecret", told(secrets.get_secret(self.asking(reading(store, end))).await));
        }
        let requests = ["", "/versions/404", "/.."].map(|end| reading(store, end)).to_vec();
        note(
            "BatchGetSecrets",
            told(secrets.batch_get_secrets(self.asking(BatchGetSecretsRequest { requests })).await),
        );
        let parent = format!("stores/{store}");
        let request = ListSecretsRequest { parent, ..Default::default() };
        note("ListSecrets", told(secrets.list_secrets(self.asking(request)).await));
        let request = ListSecretVersionsRequest { parent: name(), ..Default::default() };
        note("ListSecretVersions", told(secrets.list_secret_versions(self.asking(request)).await));
        let wrong = Some(1);
        let value = canary.value();
        let request = AddSecretVersionRequest { payload_crc32c: wrong, ..addition(store, value.as_bytes()) };
        note("AddSecretVersion", told(secrets.add_secret_version(self.asking(request)).await));
        note(
            "AddSecretVersion",
            told(secrets.add_secret_version(self.asking(addition(store, value.as_bytes()))).await),
        );
        let large = value.repeat(300);
        note(
            "AddSecretVersion",
            told(secrets.add_secret_version(self.asking(addition(store, large.as_bytes()))).await),
        );
        let request = EnableSecretVersionRequest { name: format!("{}/versions/1", name()), ..Default::default() };
        note("EnableSecretVersion", told(secrets.enable_secret_version(self.asking(request)).await));
        let request = DisableSecretVersionRequest { name: format!("{}/versions/1", name()), ..Default::default() };
        note("DisableSecretVersion", told(secrets.disable_secret_version(self.asking(request)).await));
        note(
            "RefreshSecret",
            told(operations.refresh_secret(self.asking(RefreshSecretRequest { name: name() })).await),
        );
        for token in [None, self.token.clone(), Some(canary.value())] {
            let subject = token.map(|token| Subject::ExaminedToken(ExaminedToken { token, certificate: None }));
            let request = ExplainAccessRequest { subject, action: "GetSecret".to_owned(), resource: name() };
            note("ExplainAccess", told(operations.explain_access(self.asking(request)).await));
        }
        note("GetStatus", told(operations.get_status(self.asking(GetStatusRequest {})).await));
        note("WhoAmI", told(operations.who_am_i(self.asking(WhoAmIRequest {})).await));
        said
    }

    fn asking<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(PATIENCE);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        request
    }
}

/// All of an answer but the payload, which `Debug` leaves out; of an error everything.
fn told<T: std::fmt::Debug>(answer: Result<Response<T>, Status>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(status) => format!("{status:?} {} {:?}", status.message(), String::from_utf8_lossy(status.details())),
    }
}

fn reading(store: &str, end: &str) -> GetSecretRequest {
    GetSecretRequest { name: format!("stores/{store}/secrets/db{end}"), ..GetSecretRequest::default() }
}

fn addition(store: &str, payload: &[u8]) -> AddSecretVersionRequest {
    let parent = format!("stores/{store}/secrets/db");
    AddSecretVersionRequest { parent, payload: payload.to_vec().into(), ..AddSecretVersionRequest::default() }
}

#[test]
fn the_search_finds_a_canary_in_every_form() {
    let canary = Canary::hatch();
    let value = canary.value();
    let hex: String = value.bytes().map(|byte| format!("{byte:02X}")).collect();
    let url: String = form_urlencoded::byte_serialize(value.as_bytes()).collect();
    let json = json!({ "inner": json!({ "value": value }).to_string() }).to_string();
    let debug = (format!("{value:?}"), format!("{:?}", value.as_bytes()));
    let mut told = vec![value.clone(), hex.to_lowercase(), hex, url, json, debug.0, debug.1];
    for before in 0..3 {
        let shifted = format!("{}{value}", "x".repeat(before));
        told.extend([STANDARD.encode(&shifted), URL_SAFE.encode(&shifted)]);
    }
    for said in told {
        let mut evidence = Evidence::default();
        evidence.add("here", said.clone());
        assert!(!evidence.telling(&canary.forms()).is_empty(), "{said}");
        assert!(evidence.telling(&Canary::hatch().forms()).is_empty(), "{said}");
    }
}

#[test]
fn a_crash_leaves_no_core_and_nobody_else_reads_the_memory() {
    // Not SEGV: from outside it does no more than to disarm the handler that Rust has for it.
    for signal in [Signal::ABORT, Signal::ILL] {
        let directory = TempDir::new().unwrap();
        prepare(directory.path(), &Ca::new("test CA"), "");
        // Everybody may run a copy here, wherever the original lies.
        let binary = directory.path().join("keyferry");
        std::fs::copy(keyferry(), &binary).unwrap();
        give_away(directory.path());
        let mut command = unprivileged(&binary);
        command.current_dir(directory.path()).args(["serve", "--config", "keyferry.toml"]);
        let broker = Process::start(&mut command);

        let limits = std::fs::read_to_string(format!("/proc/{}/limits", broker.id())).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");

        // Not even its own user may; of another process of that user it may, so the question is a fair one.
        let mut other = unprivileged(Path::new("sleep")).arg("600").spawn().unwrap();
        for file in ["mem", "environ"] {
            assert!(opens(other.id(), file), "{file} of a process that has nothing to hide");
            assert!(!opens(broker.id(), file), "{file}");
        }
        other.kill().unwrap();
        other.wait().unwrap();

        let (ended, _) = broker.end_by(signal);
        assert_eq!((ended.signal(), ended.core_dumped()), (Some(signal.as_raw()), false));
        let names = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(names.into_iter().all(|name| !name.to_string_lossy().contains("core")));
    }
}

/// As nobody, where this is root, who may everything; else as this user, who is nobody special.
fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn give_away(path: &Path) {
    if !geteuid().is_root() {
        return;
    }
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| give_away(&entry.unwrap().path()));
    }
}

fn opens(process: u32, file: &str) -> bool {
    let file = format!("/proc/{process}/{file}");
    let mut shell = unprivileged(Path::new("sh"));
    shell.args(["-c", "exec 3<\"$0\"", &file]).stderr(Stdio::null()).status().unwrap().success()
}
