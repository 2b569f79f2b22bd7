//! What subscribers cost, and how soon they hear of a change: a broker in a process of its own, its clients here.
//!
//! `watch PATH-OF-KEYFERRY [SUBSCRIBERS [CONNECTIONS]]`; exits with 1 where a bar is missed.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's output is for its reader")]
#![allow(clippy::disallowed_methods, reason = "the real time is what is measured")]

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::watch_rotations_response::Response;
use keyferry_proto::v1::{AddSecretVersionRequest, RotationFilter, WatchRotationsRequest, WatchRotationsResponse};
use keyferry_tests::broker::{endpoint, prepare};
use keyferry_tests::pki::{Ca, Issued};
use keyferry_tests::process::Process;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tonic::Streaming;
use tonic::transport::Channel;

const SECRET: &str = "stores/local/secrets/watched";
const SUBSCRIBERS: usize = 10_000;
const CONNECTIONS: usize = 100;
/// Of ten subscribers, one stops reading in the last part.
const STUCK_OF: usize = 10;
const ALONE_ROUNDS: usize = 500;
const ROUNDS: usize = 20;
/// The bars: from call to delivery, for 99 of 100.
const ALONE_BAR: Duration = Duration::from_millis(3);
const ALL_BAR: Duration = Duration::from_millis(250);
const BESIDE_STUCK_BAR: Duration = Duration::from_secs(1);
const RESIDENT_BAR_KIB: f64 = 16.0;
const CONFIGURATION: &str = r#"
[limits]
streams_per_connection = 10000
[quota]
read_rate = 1000000
read_burst = 1000000
change_rate = 1000000
change_burst = 1000000
streams = 1000000
"#;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let (Some(binary), Ok(subscribers), Ok(connections)) =
        (arguments.first(), number(1, SUBSCRIBERS), number(2, CONNECTIONS))
    else {
        eprintln!("usage: watch PATH-OF-KEYFERRY [SUBSCRIBERS [CONNECTIONS]]");
        return ExitCode::from(2);
    };
    match measure(Path::new(binary), subscribers, connections) {
        Ok(missed) if missed.is_empty() => ExitCode::SUCCESS,
        Ok(missed) => {
            eprintln!("over the bar: {}", missed.join("; "));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("cannot measure {binary}: {error}");
            ExitCode::from(2)
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn measure(binary: &Path, subscribers: usize, connections: usize) -> Outcome<Vec<String>> {
    let mut missed = Vec::new();
    let world = World::start(binary)?;
    let mut writer = SecretServiceClient::new(world.connect(&world.operator).await?);
    add(&mut writer).await?;

    let (heard, mut hears) = mpsc::unbounded_channel();
    let mut only = world.subscribe(&mut RotationServiceClient::new(world.connect(&world.client).await?), 0).await?;
    let mut alone = Vec::with_capacity(ALONE_ROUNDS);
    for _ in 0..ALONE_ROUNDS {
        let begun = Instant::now();
        // The answer and the event race each other.
        let (added, told) = tokio::join!(add(&mut writer), event(&mut only));
        added?;
        alone.push(told?.duration_since(begun));
    }
    report("one subscriber, from call to delivery", alone, ALONE_BAR, &mut missed);
    drop(only);

    let before = world.resident()?;
    let begun = Instant::now();
    let mut streams = Vec::with_capacity(subscribers);
    for connection in 0..connections {
        let mut client = RotationServiceClient::new(world.connect(&world.client).await?);
        for number in 0..subscribers / connections {
            streams.push(world.subscribe(&mut client, connection * subscribers + number).await?);
        }
    }
    println!("{} subscribers on {connections} connections, opened in {:?}", streams.len(), begun.elapsed());
    let each = world.resident()?.saturating_sub(before) as f64 * 1024.0 / streams.len() as f64;
    println!("  resident per subscriber {:>10.1} KiB", each / 1024.0);
    if each / 1024.0 > RESIDENT_BAR_KIB {
        missed.push(format!("over {RESIDENT_BAR_KIB} KiB resident per subscriber"));
    }

    let stuck = streams.split_off(streams.len() - streams.len() / STUCK_OF);
    let reading = streams.len();
    for stream in streams {
        tokio::spawn(read(stream, heard.clone()));
    }
    let all: Vec<_> = stuck;
    let mut delays = Vec::new();
    for _ in 0..ROUNDS {
        delays.extend(round(&mut writer, &mut hears, reading).await?);
    }
    let what = format!("one event to {reading}, {} more do not read", all.len());
    report(&what, delays, BESIDE_STUCK_BAR, &mut missed);
    println!("  resident in all         {:>10.1} MiB", world.resident()? as f64 / 1024.0);
    let mut left = Vec::new();
    for mut stream in all {
        // Nothing is lost on those who did not read: all rounds are there, in order, or the stream says why not.
        let mut events = 0;
        while events < ROUNDS {
            match stream.message().await?.ok_or("a stream ended")?.response {
                Some(Response::Events(batch)) => events += batch.events.len(),
                Some(Response::Resync(_)) => events = ROUNDS,
                _ => {}
            }
        }
        left.push(stream);
    }
    println!("  {} that had not read were told all", left.len());
    for stream in left {
        tokio::spawn(read(stream, heard.clone()));
    }
    let mut delays = Vec::new();
    for _ in 0..ROUNDS {
        delays.extend(round(&mut writer, &mut hears, reading + reading / (STUCK_OF - 1)).await?);
    }
    report("one event to all", delays, ALL_BAR, &mut missed);
    Ok(missed)
}

struct World {
    process: Process,
    ca: Ca,
    client: Issued,
    operator: Issued,
    _directory: TempDir,
}

impl World {
    fn start(binary: &Path) -> Outcome<Self> {
        let (directory, ca) = (TempDir::new()?, Ca::new("bench CA"));
        prepare(directory.path(), &ca, CONFIGURATION);
        let configuration = directory.path().join("keyferry.toml");
        let process =
            Process::start(Command::new(binary.canonicalize()?).args(["serve", "--config"]).arg(configuration));
        Ok(Self { process, client: ca.client("client"), operator: ca.client("operator"), ca, _directory: directory })
    }

    async fn connect(&self, who: &Issued) -> Outcome<Channel> {
        Ok(endpoint(self.process.grpc().port(), who.client_tls(&self.ca)).connect().await?)
    }

    async fn subscribe(
        &self,
        client: &mut RotationServiceClient<Channel>,
        number: usize,
    ) -> Outcome<Streaming<WatchRotationsResponse>> {
        let filter = RotationFilter { names: vec![SECRET.to_owned()], ..RotationFilter::default() };
        let request = WatchRotationsRequest {
            subscriber: format!("s{number}"),
            filter: Some(filter),
            ..WatchRotationsRequest::default()
        };
        let mut stream = client.watch_rotations(request).await?.into_inner();
        stream.message().await?;
        Ok(stream)
    }

    /// In KiB.
    fn resident(&self) -> Outcome<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no resident size")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

async fn add(writer: &mut SecretServiceClient<Channel>) -> Outcome<()> {
    let request = AddSecretVersionRequest {
        parent: SECRET.to_owned(),
        payload: b"value".to_vec().into(),
        allow_missing: true,
        ..AddSecretVersionRequest::default()
    };
    writer.add_secret_version(request).await?;
    Ok(())
}

/// When the next event came.
async fn event(stream: &mut Streaming<WatchRotationsResponse>) -> Outcome<Instant> {
    loop {
        let message = stream.message().await?.ok_or("a stream ended")?;
        if matches!(message.response, Some(Response::Events(_))) {
            return Ok(Instant::now());
        }
    }
}

async fn read(mut stream: Streaming<WatchRotationsResponse>, heard: mpsc::UnboundedSender<Instant>) {
    while let Ok(at) = event(&mut stream).await {
        if heard.send(at).is_err() {
            return;
        }
    }
}

/// How long after the call began each of `expected` heard of the change.
async fn round(
    writer: &mut SecretServiceClient<Channel>,
    hears: &mut mpsc::UnboundedReceiver<Instant>,
    expected: usize,
) -> Outcome<Vec<Duration>> {
    let begun = Instant::now();
    add(writer).await?;
    let mut delays = Vec::with_capacity(expected);
    while delays.len() < expected {
        delays.push(hears.recv().await.ok_or("all streams ended")?.duration_since(begun));
    }
    Ok(delays)
}

fn report(what: &str, mut delays: Vec<Duration>, bar: Duration, missed: &mut Vec<String>) {
    delays.sort_unstable();
    let at = |share: usize| delays.get((delays.len() * share / 100).min(delays.len() - 1)).copied().unwrap_or_default();
    if at(99) > bar {
        missed.push(format!("{what}, p99 over {bar:?}"));
    }
    println!("{what}: p50 {:?}, p99 {:?}, worst {:?} of {}", at(50), at(99), at(100), delays.len());
}
