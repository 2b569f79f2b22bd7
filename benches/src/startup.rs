//! How long the release binary takes from its start to the first answered call, and what it occupies when idle.
//!
//! `startup [--report] PATH`: fails when a bar is missed; `--report` only prints.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's output is for its reader")]
#![allow(clippy::disallowed_methods, reason = "the real time is what is measured")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use keyferry_benches::Outcome;
use keyferry_benches::memory::{Memory, RESIDENT, highest};
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::{AddSecretVersionRequest, GetSecretRequest};
use keyferry_tests::broker::{endpoint, prepare};
use keyferry_tests::pki::Ca;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

const STARTS: usize = 20;
/// Bars of the project: the median start, and the highest resident memory.
const START_BAR: Duration = Duration::from_millis(150);
const RESIDENT_BAR_KIB: u64 = 30 * 1024;

const SECRET: &str = "stores/local/secrets/first";
/// After this long without an answer the broker counts as broken.
const PATIENCE: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let report_only = arguments.first().is_some_and(|argument| argument == "--report");
    if report_only {
        arguments.remove(0);
    }
    let [binary] = &*arguments else {
        eprintln!("usage: startup [--report] PATH-OF-KEYFERRY");
        return ExitCode::from(2);
    };
    match measure(&PathBuf::from(binary)) {
        Ok(figures) if figures.print() || report_only => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cannot measure {binary}: {error}");
            ExitCode::from(2)
        }
    }
}

struct Figures {
    starts: Vec<Duration>,
    memory: Vec<Memory>,
}

impl Figures {
    /// Tells whether the bars are met.
    fn print(&self) -> bool {
        let worst = self.starts.last().copied().unwrap_or_default();
        let median = self.starts.get(self.starts.len() / 2).copied().unwrap_or_default();
        println!("start to first answer, {} starts", self.starts.len());
        let quick = row("median", median.as_secs_f64() * 1e3, "ms", Some(START_BAR.as_secs_f64() * 1e3));
        row("worst", worst.as_secs_f64() * 1e3, "ms", None);

        println!("idle for {} s, highest of {}", IDLE.as_secs(), self.memory.len());
        let mut small = false;
        for (name, kib) in highest(&self.memory) {
            let mib = |kib: u64| kib as f64 / 1024.0;
            let bar = (name == RESIDENT).then_some(RESIDENT_BAR_KIB);
            match kib {
                Some(kib) => small |= row(name, mib(kib), "MiB", bar.map(mib)) && bar.is_some(),
                None => println!("  {name:<20} not readable for this user"),
            }
        }
        quick && small
    }
}

/// Tells whether the bar is met.
fn row(name: &str, value: f64, unit: &str, bar: Option<f64>) -> bool {
    let met = bar.is_none_or(|bar| value <= bar);
    let verdict = match bar {
        Some(bar) if met => format!("  (bar {bar:.0} {unit}: met)"),
        Some(bar) => format!("  (bar {bar:.0} {unit}: MISSED)"),
        None => String::new(),
    };
    println!("  {name:<20} {value:>8.1} {unit:<3}{verdict}");
    met
}

fn measure(binary: &Path) -> Outcome<Figures> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let world = World::new(binary.canonicalize()?)?;
    // The first run makes what later ones find: the store, its secret, the audit key.
    runtime.block_on(world.fill())?;
    let mut figures = Figures { starts: Vec::new(), memory: Vec::new() };
    for _ in 0..STARTS {
        let (time, memory) = runtime.block_on(world.start_once())?;
        figures.starts.push(time);
        figures.memory.push(memory);
    }
    figures.starts.sort();
    Ok(figures)
}

/// A directory that brokers are started on, one after the other.
struct World {
    binary: PathBuf,
    directory: TempDir,
    client: Endpoint,
    operator: Endpoint,
}

impl World {
    fn new(binary: PathBuf) -> Outcome<Self> {
        let directory = TempDir::new()?;
        let ca = Ca::new("bench CA");
        prepare(directory.path(), &ca, "");
        // Dialling starts before the broker could tell a port of the kernel's choice.
        let port = free_port()?;
        let path = directory.path().join("keyferry.toml");
        let configuration = fs::read_to_string(&path)?;
        fs::write(&path, configuration.replacen("grpc = \"127.0.0.1:0\"", &format!("grpc = \"127.0.0.1:{port}\""), 1))?;
        Ok(Self {
            binary,
            directory,
            client: endpoint(port, ca.client("client").client_tls(&ca)),
            operator: endpoint(port, ca.client("operator").client_tls(&ca)),
        })
    }

    async fn fill(&self) -> Outcome<()> {
        let mut broker = self.spawn()?;
        let mut client = broker.dial(&self.operator).await?;
        let request = AddSecretVersionRequest {
            parent: SECRET.to_owned(),
            payload: b"value".to_vec().into(),
            allow_missing: true,
            ..AddSecretVersionRequest::default()
        };
        client.add_secret_version(request).await?;
        broker.end()
    }

    async fn start_once(&self) -> Outcome<(Duration, Memory)> {
        let started = Instant::now();
        let mut broker = self.spawn()?;
        let mut client = broker.dial(&self.client).await?;
        let request = GetSecretRequest { name: SECRET.to_owned(), ..GetSecretRequest::default() };
        client.get_secret(request).await?;
        let time = started.elapsed();
        drop(client);
        tokio::time::sleep(IDLE).await;
        let memory = Memory::of(broker.0.id())?;
        broker.end()?;
        Ok((time, memory))
    }

    fn spawn(&self) -> Outcome<Broker> {
        let mut command = Command::new(&self.binary);
        command.args(["serve", "--config"]).arg(self.directory.path().join("keyferry.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(fs::File::create(self.directory.path().join("log"))?);
        Ok(Broker(command.spawn()?))
    }
}

/// Killed when dropped.
struct Broker(Child);

impl Broker {
    /// Dials until it answers, without a pause that would be measured too.
    async fn dial(&mut self, endpoint: &Endpoint) -> Outcome<SecretServiceClient<Channel>> {
        let started = Instant::now();
        loop {
            match endpoint.connect().await {
                Ok(channel) => return Ok(SecretServiceClient::new(channel)),
                Err(error) if started.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => {}
            }
            if let Some(status) = self.0.try_wait()? {
                return Err(format!("it ended with {status} before it answered").into());
            }
        }
    }

    fn end(mut self) -> Outcome<()> {
        kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        let status = self.0.wait()?;
        if status.success() { Ok(()) } else { Err(format!("it ended with {status}").into()) }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
