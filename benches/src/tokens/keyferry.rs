//! The broker: users that it makes for callers, and a start with many leases on record.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyferry_benches::Outcome;
use keyferry_benches::memory::{Memory, RESIDENT, highest};
use keyferry_broker::clock::{Clock as _, SystemClock};
use keyferry_broker::databases::UserName;
use keyferry_broker::databases::leases::{LEASES, Lease, Stage};
use keyferry_broker::names::{DatabaseName, LeaseName};
use keyferry_broker::state::{Embedded, EmbeddedSettings, Key, Outcome as Committed, Store as _, Txn};
use keyferry_proto::v1::operator_service_client::OperatorServiceClient;
use keyferry_proto::v1::token_service_client::TokenServiceClient;
use keyferry_proto::v1::{GetStatusRequest, ListLeasesRequest, MintDatabaseTokenRequest};
use keyferry_tests::broker::{endpoint, prepare};
use keyferry_tests::pki::{Ca, Issued};
use keyferry_tests::postgres::Cluster;
use keyferry_tests::process::Process;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::{CLIENTS, rate_of, row};

const LEASE_COUNT: usize = 100_000;
const RESTARTS: usize = 3;
/// Bars of the project.
const RESTART_BAR: Duration = Duration::from_secs(2);
const RESIDENT_BAR_MB: f64 = 150.0;

pub(crate) struct Broker {
    process: Process,
    ca: Ca,
    operator: Issued,
    directory: TempDir,
}

impl Broker {
    pub(crate) fn start(binary: &Path, ca: &Ca, database: &Cluster) -> Outcome<Self> {
        let directory = TempDir::new()?;
        let leases = "[leases]\nlive_per_caller = 1000000\n";
        prepare(directory.path(), ca, &format!("{}{leases}", database.configuration()));
        Ok(Self::start_in(directory, binary, ca))
    }

    fn start_in(directory: TempDir, binary: &Path, ca: &Ca) -> Self {
        let mut command = Command::new(binary);
        let process = Process::start(command.args(["serve", "--config"]).arg(directory.path().join("keyferry.toml")));
        Self { process, ca: ca.clone(), operator: ca.client("operator"), directory }
    }

    async fn channel(&self) -> Outcome<Channel> {
        Ok(endpoint(self.process.grpc().port(), self.operator.client_tls(&self.ca)).connect().await?)
    }

    pub(crate) async fn rate(&self) -> Outcome<f64> {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(TokenServiceClient::new(self.channel().await?));
        }
        rate_of(clients, |mut client: TokenServiceClient<Channel>| async move {
            client.mint_database_token(request()).await?;
            Ok(client)
        })
        .await
    }

    fn stop(self) -> Outcome<TempDir> {
        let (ended_well, log) = self.process.terminate();
        if ended_well { Ok(self.directory) } else { Err(log.join("\n").into()) }
    }
}

fn request() -> MintDatabaseTokenRequest {
    MintDatabaseTokenRequest { name: "databases/shop/roles/reader".into(), ..Default::default() }
}

/// Tells whether the bars are met.
pub(crate) async fn many_leases(binary: &Path) -> Outcome<bool> {
    let ca = Ca::new("bench CA");
    let database = Cluster::start_durable(&ca);
    let broker = Broker::start(binary, &ca, &database)?;
    let token = TokenServiceClient::new(broker.channel().await?).mint_database_token(request()).await?.into_inner();
    let mark = format!("SELECT shobj_description('{}'::regrole, 'pg_authid')", token.user);
    let mark = database.admin("shop", &mark).split(' ').nth(1).ok_or("its user has no comment")?.to_owned();
    let mut directory = broker.stop()?;
    let leases = (0..LEASE_COUNT).map(lease).collect::<Outcome<Vec<Lease>>>()?;
    record(directory.path(), &leases).await?;
    make_users(&database, &mark, &leases)?;

    let (mut slowest, mut memory) = (Duration::ZERO, Vec::new());
    for _ in 0..RESTARTS {
        let begun = Instant::now();
        let broker = Broker::start_in(directory, binary, &ca);
        let mut tokens = TokenServiceClient::new(broker.channel().await?);
        tokens.list_leases(ListLeasesRequest { page_size: 1, ..Default::default() }).await?;
        slowest = slowest.max(begun.elapsed());
        let mut operations = OperatorServiceClient::new(broker.channel().await?);
        // Compared with the database: from then on all is in memory that will be.
        let counts = loop {
            let status = operations.get_status(GetStatusRequest {}).await?.into_inner().status.unwrap_or_default();
            if status.databases.first().is_some_and(|database| database.sweep_time.is_some()) {
                break status.leases.unwrap_or_default();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        if usize::try_from(counts.active_count)? != LEASE_COUNT + 1 {
            return Err(format!("{counts:?}").into());
        }
        memory.push(Memory::of(broker.process.id())?);
        directory = broker.stop()?;
    }
    println!("{LEASE_COUNT} live leases, worst of {RESTARTS} restarts");
    let bar = RESTART_BAR.as_secs_f64();
    let quick = row("restart to first answer", slowest.as_secs_f64(), "s", |value| value <= bar, bar);
    let mut small = false;
    for (name, kib) in highest(&memory) {
        let megabytes = kib.map(|kib| kib as f64 * 1024.0 / 1e6);
        match megabytes {
            Some(value) if name == RESIDENT => {
                small = row(name, value, "MB", |value| value <= RESIDENT_BAR_MB, RESIDENT_BAR_MB);
            }
            Some(value) => println!("  {name:<24} {value:>8.2} MB"),
            None => {}
        }
    }
    Ok(quick && small)
}

fn lease(number: usize) -> Outcome<Lease> {
    let (now, day) = (SystemClock.now(), Duration::from_secs(24 * 3600));
    Ok(Lease {
        name: LeaseName::from_id(&format!("{:014x}{number:016x}", now.as_micros()))?,
        role: DatabaseName::from_id("shop")?.role("reader")?,
        owner: format!("x509/spiffe://test.keyferry/services/{}", number % 1000).into(),
        user: UserName::parse(&format!("kf_reader_{number:020}")).ok_or("no user's name")?,
        minter: "another".into(),
        created: now,
        expires: now.plus(day),
        max_expires: now.plus(day),
        issue: 0,
        stage: Stage::Active,
    })
}

async fn record(directory: &Path, leases: &[Lease]) -> Outcome<()> {
    let settings = EmbeddedSettings {
        file: directory.join("state.redb"),
        history_age: Duration::from_secs(3600),
        history_changes: 200_000,
    };
    let state = Embedded::open(&settings, "bench", Arc::new(SystemClock))?;
    for some in leases.chunks(Txn::MAX_OPERATIONS) {
        let mut txn = Txn::new();
        for lease in some {
            txn = txn.put(&Key::new(&LEASES, &[lease.name.id()])?, lease);
        }
        let Committed::Committed(_) = state.txn(txn).await? else { return Err("not recorded".into()) };
    }
    state.close().await;
    Ok(())
}

fn make_users(database: &Cluster, mark: &str, leases: &[Lease]) -> Outcome<()> {
    let mut script = String::new();
    for some in leases.chunks(1000) {
        script.push_str("BEGIN;\n");
        for lease in some {
            let (user, id, owner) = (lease.user.as_str(), lease.name.id(), &lease.owner);
            writeln!(script, "CREATE ROLE {user} LOGIN IN ROLE orders_read;")?;
            writeln!(script, "COMMENT ON ROLE {user} IS 'keyferry {mark} {id} reader {owner}';")?;
        }
        script.push_str("COMMIT;\n");
    }
    let file = database.path().join("users.sql");
    std::fs::write(&file, script)?;
    let mut psql = database.program_as_broker("psql");
    let output = psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "shop", "-f"]).arg(&file).output()?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8(output.stderr)?.into()) }
}
