//! A broker in a process of its own, good callers on it, and attackers: what the callers and the machine notice.

use std::fmt;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keyferry_broker::clock::{Clock as _, SystemClock};
use keyferry_proto::v1::AddSecretVersionRequest;
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use rustix::process::{Resource, Rlimit, getrlimit, nice, setrlimit};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tonic::transport::Channel;

use super::peer::Target;
use super::slow::large_secrets;
use super::{Attack, CONNECTING, Strength, Tally};
use crate::broker::{endpoint, get, prepare};
use crate::pki::{Ca, Issued};
use crate::process::Process;

/// How long each part lasts, how many attack, and what a machine's own noise may take.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub calm: Duration,
    pub attack: Duration,
    /// Of each good caller.
    pub call_every: Duration,
    pub strength: Strength,
    /// Below these, a delay or a growth says nothing about an attack.
    pub noise: Duration,
    pub newcomers_noise: Duration,
    pub memory_noise_kib: u64,
}

/// The bars.
const SLOWER: u32 = 5;
const LARGER: u64 = 2;
const RECOVERY: Duration = Duration::from_secs(30);

const CALLERS: usize = 4;
const CONNECT_EVERY: Duration = Duration::from_millis(200);
/// Between two looks at whether all is as it was.
const GLANCE: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const CROWD: Duration = Duration::from_secs(300);
/// Attackers leave the processor to those whom they attack: the broker is what is to be measured.
const LAST: i32 = 19;
const LARGE_BYTES: usize = 65_536;
/// What a connection costs that does nothing: those of an attack by connections are not held against the broker twice.
const CONNECTION_KIB: u64 = 36;

const CONFIGURATION: &str = r#"
[limits]
connections = 15000
# As it is by default.
[quota]
"#;

const ATTACKERS_POLICY: &str = r#"
@id("attacker-reads")
permit (principal, action in [Keyferry::Action::"Read"], resource)
when { principal has certificate && principal.certificate has spiffe && principal.certificate.spiffe.path == "/attacker" };
"#;

#[derive(Debug)]
pub struct Siege {
    pace: Pace,
    target: Target,
    callers: Callers,
    process: Process,
    calm: Reading,
    calm_resident_kib: u64,
    calm_connections: usize,
    _directory: TempDir,
}

/// Of one attack.
#[derive(Debug)]
pub struct Figures {
    pub attack: Attack,
    pub peers: usize,
    pub connected: usize,
    /// By the broker, while the attack lasted.
    pub ended: usize,
    calm: Reading,
    under: Reading,
    calm_resident_kib: u64,
    /// The most of it, while the attack lasted.
    resident_kib: u64,
    /// Until everything was as it had been; none within the bar.
    recovered: Option<Duration>,
    pace: Pace,
}

/// What good callers saw.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    calls: usize,
    failed: usize,
    p50: Duration,
    p99: Duration,
    /// Of new connections, until their first answer.
    newcomer: Duration,
}

impl Siege {
    /// `program` is a broker's binary.
    pub fn start(program: &Path, pace: Pace) -> Self {
        raise_descriptors();
        let (directory, ca) = (TempDir::new().unwrap(), Ca::new("siege's CA"));
        prepare(directory.path(), &ca, CONFIGURATION);
        // The attackers may call as well, on a quota of their own.
        fs::write(directory.path().join("policy/attacker.cedar"), ATTACKERS_POLICY).unwrap();
        let process = Process::start(
            Command::new(program).args(["serve", "--config"]).arg(directory.path().join("keyferry.toml")),
        );
        let addresses = [process.grpc(), process.web().unwrap(), process.admin()];
        let target = Target::new(addresses, &ca, &ca.client("attacker"));
        let callers = Callers::start(process.grpc().port(), &ca, pace.call_every);
        let mut siege = Self {
            pace,
            target,
            callers,
            process,
            calm: Reading::default(),
            calm_resident_kib: 0,
            calm_connections: 0,
            _directory: directory,
        };
        // What is done for the first time is slower.
        siege.callers.over(pace.calm / 2);
        (siege.calm, siege.calm_resident_kib) = siege.watch(pace.calm);
        siege.calm_connections = siege.connections();
        siege
    }

    pub fn suffer(&mut self, attack: Attack) -> Figures {
        let peers = attack.peers(self.pace.strength);
        let attackers = Attackers::start(attack, peers, self.target.clone());
        if attack == Attack::Idle {
            until(CROWD, || self.connections() >= peers);
        }
        let (under, resident_kib) = self.watch(self.pace.attack);
        let (connected, ended) = attackers.stop();
        Figures {
            attack,
            peers,
            connected,
            ended,
            calm: self.calm,
            under,
            calm_resident_kib: self.calm_resident_kib,
            resident_kib,
            recovered: until(RECOVERY, || self.is_calm()),
            pace: self.pace,
        }
    }

    fn is_calm(&self) -> bool {
        let (reading, resident_kib) = self.watch(GLANCE);
        let pace = &self.pace;
        reading.p99 <= bar(self.calm.p99, pace.noise)
            && reading.failed == 0
            && resident_kib <= memory_bar(self.calm_resident_kib, pace.memory_noise_kib)
            // A newcomer may be among them.
            && self.connections() <= self.calm_connections + 1
    }

    /// What the callers see for so long, and the most that was resident meanwhile.
    fn watch(&self, span: Duration) -> (Reading, u64) {
        let end = SystemClock.monotonic() + span;
        self.callers.forget();
        let mut resident = self.resident_kib();
        while SystemClock.monotonic() < end {
            std::thread::sleep(LOOK_EVERY);
            resident = resident.max(self.resident_kib());
        }
        (self.callers.reading(), resident)
    }

    fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// On the port of gRPC, as the metrics tell.
    fn connections(&self) -> usize {
        let mut page = String::new();
        let asked = TcpStream::connect(self.process.admin()).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
            stream.read_to_string(&mut page)
        });
        let open = page.lines().find_map(|line| line.strip_prefix("keyferry_connections_open{listener=\"grpc\"} "));
        // An operators' port under attack answers later.
        asked.ok().and(open).map_or(usize::MAX, |open| open.parse().unwrap())
    }
}

fn until(patience: Duration, mut holds: impl FnMut() -> bool) -> Option<Duration> {
    let begun = SystemClock.monotonic();
    loop {
        if holds() {
            return Some(begun.elapsed());
        }
        if begun.elapsed() > patience {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// As many as the machine allows: attackers have thousands of sockets.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

fn bar(calm: Duration, noise: Duration) -> Duration {
    (calm * SLOWER).max(noise)
}

fn memory_bar(calm_kib: u64, noise_kib: u64) -> u64 {
    (calm_kib * LARGER).max(calm_kib + noise_kib)
}

impl Figures {
    /// Which bars were missed, in words.
    pub fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let mut hold = |what: &str, holds: bool| {
            if !holds {
                missed.push(format!("{}: {what}", self.attack));
            }
        };
        let newcomers_bar = bar(self.calm.newcomer, self.pace.newcomers_noise);
        hold("a good call failed", self.under.failed == 0);
        hold("hardly a good call was made", self.under.calls > self.calm.calls / 10);
        hold("good callers wait", self.under.p99 <= bar(self.calm.p99, self.pace.noise));
        hold("newcomers wait", self.under.newcomer <= newcomers_bar);
        hold("it never came back to calm", self.recovered.is_some());
        if self.attack == Attack::Idle {
            hold("peers were missing", self.connected >= self.peers);
        }
        let connections = CONNECTION_KIB * self.peers as u64;
        let memory_bar = memory_bar(self.calm_resident_kib, self.pace.memory_noise_kib) + connections;
        hold("memory grows", self.resident_kib <= memory_bar);
        missed
    }

    fn each_kib(&self) -> f64 {
        self.resident_kib.saturating_sub(self.calm_resident_kib) as f64 / self.peers as f64
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |span: Duration| span.as_secs_f64() * 1e3;
        let mib = |kib: u64| kib as f64 / 1024.0;
        write!(
            f,
            "{:<16} {:>6} peers {:>6} ended | p50 {:>6.2} ms, p99 {:>7.2} ms (calm {:>6.2}), newcomer {:>7.1} ms (calm {:>5.1}), {} of {} failed | {:>6.1} MiB (calm {:>5.1}) |",
            self.attack.to_string(),
            self.peers,
            self.ended,
            millis(self.under.p50),
            millis(self.under.p99),
            millis(self.calm.p99),
            millis(self.under.newcomer),
            millis(self.calm.newcomer),
            self.under.failed,
            self.under.calls,
            mib(self.resident_kib),
            mib(self.calm_resident_kib),
        )?;
        match self.recovered {
            Some(after) => write!(f, " calm again in {:.1} s", after.as_secs_f64())?,
            None => write!(f, " not calm again")?,
        }
        if self.attack == Attack::Idle {
            write!(f, "; {:.1} KiB each", self.each_kib())?;
        }
        Ok(())
    }
}

/// One thread with all peers of an attack on it.
struct Attackers {
    stop: tokio::sync::oneshot::Sender<()>,
    thread: JoinHandle<()>,
    tally: Arc<Tally>,
}

impl Attackers {
    fn start(attack: Attack, peers: usize, target: Target) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let tally = Arc::<Tally>::default();
        let counted = Arc::clone(&tally);
        let thread = std::thread::spawn(move || {
            nice(LAST).unwrap();
            on_this_thread(async move {
                let connecting = Arc::new(Semaphore::new(CONNECTING));
                let mut tasks = JoinSet::new();
                for _ in 0..peers {
                    tasks.spawn(attack.carry_out(target.clone(), Arc::clone(&connecting), Arc::clone(&counted)));
                }
                let _ = stopped.await;
            });
        });
        Self { stop, thread, tally }
    }

    /// How many connected, and how many of those the broker ended.
    fn stop(self) -> (usize, usize) {
        let ended = self.tally.ended.load(Ordering::Relaxed);
        drop(self.stop);
        self.thread.join().unwrap();
        (self.tally.connected.load(Ordering::Relaxed), ended)
    }
}

/// Good callers, on a thread of their own: some that stay connected, and one that connects anew each time.
#[derive(Debug)]
struct Callers {
    seen: Mutex<mpsc::Receiver<Seen>>,
    stopped: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug)]
enum Seen {
    Answer(Duration),
    Failure,
    Newcomer(Duration),
}

impl Callers {
    fn start(port: u16, ca: &Ca, call_every: Duration) -> Self {
        let (see, seen) = mpsc::channel();
        let stopped = Arc::new(AtomicBool::new(false));
        let (ca, stop) = (ca.clone(), Arc::clone(&stopped));
        let (good, operator) = (ca.client("client"), ca.client("operator"));
        let connect = move |who: &Issued| {
            let endpoint = endpoint(port, who.client_tls(&ca));
            async move { endpoint.connect().await.map(SecretServiceClient::new) }
        };
        std::thread::spawn(move || {
            on_this_thread(async move {
                let mut operator = connect(&operator).await.unwrap();
                put(&mut operator, "stores/local/secrets/db", b"value").await;
                for large in large_secrets() {
                    put(&mut operator, &large, &[b'x'; LARGE_BYTES]).await;
                }
                drop(operator);
                let mut calling = JoinSet::new();
                for _ in 0..CALLERS {
                    calling.spawn(call(connect(&good).await.unwrap(), call_every, see.clone()));
                }
                let mut ticks = paced(CONNECT_EVERY);
                while !stop.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    let begun = SystemClock.monotonic();
                    let answered = match connect(&good).await {
                        Ok(mut client) => get(&mut client, "db").await.is_ok(),
                        Err(_) => false,
                    };
                    let _ = see.send(if answered { Seen::Newcomer(begun.elapsed()) } else { Seen::Failure });
                }
            });
        });
        Self { seen: Mutex::new(seen), stopped }
    }

    fn over(&self, span: Duration) {
        std::thread::sleep(span);
        self.forget();
    }

    fn forget(&self) {
        self.seen.lock().unwrap().try_iter().for_each(drop);
    }

    fn reading(&self) -> Reading {
        let (mut answers, mut reading) = (Vec::new(), Reading::default());
        for seen in self.seen.lock().unwrap().try_iter() {
            match seen {
                Seen::Answer(after) => answers.push(after),
                Seen::Failure => reading.failed += 1,
                Seen::Newcomer(after) => reading.newcomer = reading.newcomer.max(after),
            }
        }
        answers.sort_unstable();
        let at = |percent: usize| answers.get(answers.len() * percent / 100).copied().unwrap_or(Duration::MAX / 10);
        Reading { calls: answers.len(), p50: at(50), p99: at(99), ..reading }
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// A delay counts from when its call was due, also where the one before it took too long.
async fn call(mut client: SecretServiceClient<Channel>, every: Duration, see: mpsc::Sender<Seen>) {
    let mut ticks = paced(every);
    loop {
        let due: Instant = ticks.tick().await.into();
        let answered = get(&mut client, "db").await.is_ok();
        let _ = see.send(if answered { Seen::Answer(due.elapsed()) } else { Seen::Failure });
    }
}

fn paced(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

async fn put(operator: &mut SecretServiceClient<Channel>, parent: &str, payload: &[u8]) {
    let request = AddSecretVersionRequest {
        parent: parent.to_owned(),
        payload: payload.to_vec().into(),
        allow_missing: true,
        ..AddSecretVersionRequest::default()
    };
    operator.add_secret_version(request).await.unwrap();
}

fn on_this_thread(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}
