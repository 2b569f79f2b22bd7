//! How cost grows: with policies, cached secrets, callers, subscribers and replicas. Brokers in processes of their own for
//! each figure.
//!
//! `scale PATH-OF-KEYFERRY [MOST]`: no number of anything above MOST, which is 10,000.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's output is for its reader")]
#![allow(clippy::disallowed_methods, reason = "the real time is what is measured")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use keyferry_benches::Outcome;
use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::watch_rotations_response::Response;
use keyferry_proto::v1::{
    AddSecretVersionRequest, GetSecretRequest, RotationFilter, WatchRotationsRequest, WatchRotationsResponse,
};
use keyferry_tests::broker::{endpoint, prepare};
use keyferry_tests::etcd::EtcdCluster;
use keyferry_tests::pki::{Ca, Issued};
use keyferry_tests::process::Process;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
const VALUE: [u8; 100] = [b'x'; 100];
/// Read for the first time, to see decisions that are not kept yet.
const DECISIONS: usize = 200;
const TOGETHER: usize = 64;
/// All on one machine, so that what they cost each other is in the figure.
const REPLICAS: [usize; 4] = [1, 2, 4, 8];
const CHANGES: usize = 200;
const STREAMS_PER_CONNECTION: usize = 1_000;
const CONFIGURATION: &str = r#"
[limits]
streams_per_connection = 10000
[quota]
read_rate = 1000000
read_burst = 1000000
change_rate = 1000000
change_burst = 1000000
streams = 1000000
distinct_secrets = 1000000
"#;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next().map(PathBuf::from);
    let most = arguments.next().map_or(Ok(SIZES[3]), |most| most.parse());
    let (Some(program), Ok(most)) = (program, most) else {
        eprintln!("usage: scale PATH-OF-KEYFERRY [MOST]");
        return ExitCode::from(2);
    };
    match measure(&program, most) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot measure {}: {error}", program.display());
            ExitCode::from(2)
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn measure(program: &Path, most: usize) -> Outcome<()> {
    let sizes = || SIZES.into_iter().filter(|size| *size <= most);
    println!("| policies | first read of a secret, p50 | read again, p50 | resident |");
    for policies in sizes() {
        let (first, again, resident) = with_policies(program, policies).await?;
        println!("| {policies} | {} µs | {} µs | {:.1} MiB |", first.as_micros(), again.as_micros(), mib(resident));
    }
    println!("| secrets of 100 bytes in the cache | each |");
    for secrets in sizes().skip(2) {
        println!("| {secrets} | {:.2} KiB |", of_secrets(program, secrets).await?);
    }
    println!("| callers known | each |");
    for callers in sizes().skip(1).take(2) {
        println!("| {callers} | {:.2} KiB |", of_callers(program, callers).await?);
    }
    println!("| subscribers | each |");
    for subscribers in sizes().skip(2) {
        println!("| {subscribers} | {:.2} KiB |", of_subscribers(program, subscribers).await?);
    }
    println!("| replicas on etcd | a change until all have told it, p50 | p99 |");
    for replicas in REPLICAS.into_iter().filter(|replicas| *replicas <= most) {
        let mut delays = of_replicas(program, replicas).await?;
        delays.sort_unstable();
        let worst = delays.get(delays.len() * 99 / 100).copied().unwrap_or_default();
        println!("| {replicas} | {:.1} ms | {:.1} ms |", millis(median(delays)), millis(worst));
    }
    Ok(())
}

/// A first read is decided by all policies; the next is not, as the decision is kept.
async fn with_policies(program: &Path, policies: usize) -> Outcome<(Duration, Duration, u64)> {
    let world = World::prepare()?;
    let mut text = String::new();
    // Two are there already.
    for number in 2..policies {
        writeln!(
            text,
            "@id(\"p{number}\") permit (principal, action in [Keyferry::Action::\"Read\"], resource) when {{ principal \
             has certificate && principal.certificate has spiffe && principal.certificate.spiffe.path == \
             \"/nobody-{number}\" }};"
        )?;
    }
    fs::write(world.directory.path().join("policy/more.cedar"), text)?;
    let running = world.start(program)?;
    running.fill(DECISIONS).await?;
    let mut client = SecretServiceClient::new(running.connect(&world.client).await?);
    let mut first = Vec::new();
    let mut again = Vec::new();
    for number in 0..DECISIONS {
        for delays in [&mut first, &mut again] {
            let begun = Instant::now();
            read(&mut client, number).await?;
            delays.push(begun.elapsed());
        }
    }
    Ok((median(first), median(again), running.resident()?))
}

async fn of_secrets(program: &Path, secrets: usize) -> Outcome<f64> {
    let world = World::prepare()?;
    world.start(program)?.fill(secrets + 1).await?;
    // Another process: what was written is not cached in this one.
    let running = world.start(program)?;
    let mut client = SecretServiceClient::new(running.connect(&world.client).await?);
    read(&mut client, secrets).await?;
    let before = running.resident()?;
    for number in 0..secrets {
        read(&mut client, number).await?;
    }
    Ok(each(before, running.resident()?, secrets))
}

/// Who has called and gone: quota, decisions and identity are remembered.
async fn of_callers(program: &Path, callers: usize) -> Outcome<f64> {
    let world = World::prepare()?;
    let running = world.start(program)?;
    running.fill(1).await?;
    let call = async |name: String| -> Outcome<()> {
        let mut client = SecretServiceClient::new(running.connect(&world.ca.client(&name)).await?);
        // Denied, as most callers are for most secrets.
        let _ = client.get_secret(GetSecretRequest { name: secret(0), ..GetSecretRequest::default() }).await;
        Ok(())
    };
    call("first".to_owned()).await?;
    let before = running.resident()?;
    for number in 0..callers {
        call(format!("caller-{number}")).await?;
    }
    Ok(each(before, running.resident()?, callers))
}

async fn of_subscribers(program: &Path, subscribers: usize) -> Outcome<f64> {
    let world = World::prepare()?;
    let running = world.start(program)?;
    running.fill(1).await?;
    let mut client = RotationServiceClient::new(running.connect(&world.client).await?);
    let before = running.resident()?;
    let mut streams = Vec::with_capacity(subscribers);
    for number in 0..subscribers {
        if number % STREAMS_PER_CONNECTION == 0 {
            client = RotationServiceClient::new(running.connect(&world.client).await?);
        }
        streams.push(subscribe(&mut client, &format!("s{number}")).await?);
    }
    Ok(each(before, running.resident()?, streams.len()))
}

/// From the call at one of them until a subscriber of each has heard of the change.
async fn of_replicas(program: &Path, replicas: usize) -> Outcome<Vec<Duration>> {
    let (etcd, ca) = (EtcdCluster::start(1), Ca::new("bench CA"));
    let configuration = |number| format!("{CONFIGURATION}{}[node]\nname = \"r{number}\"\n", etcd.configuration());
    let worlds: Vec<_> = (0..replicas).map(|number| World::of(&ca, &configuration(number))).collect::<Outcome<_>>()?;
    let brokers: Vec<_> = worlds.iter().map(|world| world.start(program)).collect::<Outcome<_>>()?;
    let mut writer = SecretServiceClient::new(brokers[0].connect(&worlds[0].operator).await?);
    add(&mut writer, 0).await?;
    let mut streams = Vec::new();
    for (number, broker) in brokers.iter().enumerate() {
        let mut client = RotationServiceClient::new(broker.connect(&broker.world.client).await?);
        streams.push(subscribe(&mut client, &format!("at-{number}")).await?);
    }
    let mut delays = Vec::new();
    for _ in 0..CHANGES {
        let begun = Instant::now();
        add(&mut writer, 0).await?;
        for stream in &mut streams {
            while !matches!(next(stream).await?, Response::Events(_)) {}
        }
        delays.push(begun.elapsed());
    }
    Ok(delays)
}

/// With what there is now behind it.
async fn subscribe(
    client: &mut RotationServiceClient<Channel>,
    name: &str,
) -> Outcome<Streaming<WatchRotationsResponse>> {
    let filter = RotationFilter { names: vec![secret(0)], ..RotationFilter::default() };
    let request =
        WatchRotationsRequest { subscriber: name.to_owned(), filter: Some(filter), ..WatchRotationsRequest::default() };
    let mut stream = client.watch_rotations(request).await?.into_inner();
    stream.message().await?;
    Ok(stream)
}

async fn next(stream: &mut Streaming<WatchRotationsResponse>) -> Outcome<Response> {
    Ok(stream.message().await?.ok_or("a stream ended")?.response.ok_or("an empty message")?)
}

struct World {
    ca: Ca,
    client: Issued,
    operator: Issued,
    directory: TempDir,
}

struct Running<'a> {
    world: &'a World,
    process: Process,
}

impl World {
    fn prepare() -> Outcome<Self> {
        Self::of(&Ca::new("bench CA"), CONFIGURATION)
    }

    fn of(ca: &Ca, configuration: &str) -> Outcome<Self> {
        let directory = TempDir::new()?;
        prepare(directory.path(), ca, configuration);
        let (client, operator) = (ca.client("client"), ca.client("operator"));
        Ok(Self { client, operator, ca: ca.clone(), directory })
    }

    fn start(&self, program: &Path) -> Outcome<Running<'_>> {
        let configuration = self.directory.path().join("keyferry.toml");
        let mut command = Command::new(program.canonicalize()?);
        Ok(Running { world: self, process: Process::start(command.args(["serve", "--config"]).arg(configuration)) })
    }
}

impl Running<'_> {
    async fn connect(&self, who: &Issued) -> Outcome<Channel> {
        Ok(endpoint(self.process.grpc().port(), who.client_tls(&self.world.ca)).connect().await?)
    }

    async fn fill(&self, secrets: usize) -> Outcome<()> {
        let writer = SecretServiceClient::new(self.connect(&self.world.operator).await?);
        let mut adding = JoinSet::new();
        for number in 0..secrets {
            let mut writer = writer.clone();
            adding.spawn(async move { add(&mut writer, number).await });
            if adding.len() >= TOGETHER
                && let Some(added) = adding.join_next().await
            {
                added??;
            }
        }
        while let Some(added) = adding.join_next().await {
            added??;
        }
        Ok(())
    }

    /// In KiB.
    fn resident(&self) -> Outcome<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no resident size")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

async fn add(writer: &mut SecretServiceClient<Channel>, number: usize) -> Result<(), Status> {
    let request = AddSecretVersionRequest {
        parent: secret(number),
        payload: VALUE.to_vec().into(),
        allow_missing: true,
        ..AddSecretVersionRequest::default()
    };
    writer.add_secret_version(request).await.map(drop)
}

async fn read(client: &mut SecretServiceClient<Channel>, number: usize) -> Outcome<()> {
    client.get_secret(GetSecretRequest { name: secret(number), ..GetSecretRequest::default() }).await?;
    Ok(())
}

fn secret(number: usize) -> String {
    format!("stores/local/secrets/secret-{number}")
}

fn median(mut delays: Vec<Duration>) -> Duration {
    delays.sort_unstable();
    delays.get(delays.len() / 2).copied().unwrap_or_default()
}

fn each(before_kib: u64, after_kib: u64, count: usize) -> f64 {
    after_kib.saturating_sub(before_kib) as f64 / count as f64
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
