//! How fast tokens are signed for callers, beside a service of tonic's that answers with what it was sent.
//!
//! `jwt [--report] KEYFERRY`: fails when the bar is missed; `--report` only prints. What is compared is calls in a second
//! of the server's own processor time: with one core to itself that is its rate, and on a busy machine it still is.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's output is for its reader")]
#![allow(clippy::disallowed_methods, reason = "the real time is what is measured")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ExitCode, Stdio};
use std::time::{Duration, Instant};

use keyferry_benches::Outcome;
use keyferry_benches::processor::{on_one_core, processor_time};
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::token_service_client::TokenServiceClient;
use keyferry_proto::v1::token_service_server::{TokenService, TokenServiceServer};
use keyferry_proto::v1::{
    AddSecretVersionRequest, ListDatabaseRolesRequest, ListDatabaseRolesResponse, ListLeasesRequest,
    ListLeasesResponse, MintDatabaseTokenRequest, MintDatabaseTokenResponse, RenewLeaseRequest, RenewLeaseResponse,
    RevokeLeaseRequest, RevokeLeaseResponse,
};
use keyferry_tests::broker::{endpoint, prepare};
use keyferry_tests::pki::{Ca, Issued};
use keyferry_tests::process::Process;
use rcgen::{KeyPair, SigningKey as _};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::transport::{Certificate, Channel, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

/// Bar of the project.
const OF_ECHO: f64 = 0.5;
const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 16;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(5);

const CONFIGURATION: &str = r#"
[issuer]
url = "https://keyferry.test"
signing_key = "stores/local/secrets/issuer-key"
refresh_interval = "1s"

[databases.orders]
kind = "cockroach"
host = "crdb.example.com"
database = "orders"
ca = "ca.pem"
audience = "orders"

[databases.orders.roles.app]
user = "app"
"#;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match *arguments {
        ["--echo", directory] => echo(Path::new(directory)).map(|()| true),
        ["--report", keyferry] => measure(Path::new(keyferry)).map(|_| true),
        [keyferry] => measure(Path::new(keyferry)),
        _ => Err("usage: jwt [--report] PATH-OF-KEYFERRY".into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cannot measure: {error}");
            ExitCode::from(2)
        }
    }
}

/// Tells whether the bar is met.
fn measure(keyferry: &Path) -> Outcome<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (ca, directory) = (Ca::new("bench CA"), TempDir::new()?);
        prepare(directory.path(), &ca, CONFIGURATION);
        let operator = ca.client("operator");
        let broker =
            Process::start(on_one_core(keyferry).args(["serve", "--config"]).arg(directory.path().join("keyferry.toml")));
        let ours = Target { port: broker.grpc().port(), process: broker.id(), ca: &ca, operator: &operator };
        ours.store_key().await?;
        let mut bare = on_one_core(&std::env::current_exe()?);
        let mut bare = Bare(bare.arg("--echo").arg(directory.path()).stdout(Stdio::piped()).spawn()?);
        let mut port = String::new();
        BufReader::new(bare.0.stdout.take().ok_or("no output")?).read_line(&mut port)?;
        let echo = Target { port: port.trim().parse()?, process: bare.0.id(), ca: &ca, operator: &operator };
        let [mut all_echo, mut all_ours] = [0.0; 2];
        for round in 1..=ROUNDS {
            let (one, other) = (echo.rate().await?, ours.rate().await?);
            println!(
                "round {round} of {ROUNDS}: echo {one:.0}, signed tokens {other:.0} calls in a second of one core"
            );
            all_echo += one;
            all_ours += other;
        }
        let share = all_ours / all_echo;
        let met = share >= OF_ECHO;
        let (signature, echo) = (signature_alone()?, ROUNDS as f64 / all_echo);
        println!(
            "the signature alone takes {:.1} us and an echo {:.1} us: with nothing else between them, {:.2} of the echo",
            signature * 1e6,
            echo * 1e6,
            echo / (echo + signature)
        );
        println!("signed tokens / echo: {share:.2} (bar {OF_ECHO}: {})", if met { "met" } else { "MISSED" });
        Ok(met)
    })
}

/// Seconds that no mint can do without: of the best of many, since others use the machine too.
fn signature_alone() -> Outcome<f64> {
    const AT_ONCE: u32 = 100;
    let (key, claims) = (KeyPair::generate()?, [b'x'; 500]);
    let mut best = Duration::MAX;
    for _ in 0..100 {
        let begun = Instant::now();
        for _ in 0..AT_ONCE {
            std::hint::black_box(key.sign(&claims)?);
        }
        best = best.min(begun.elapsed());
    }
    Ok((best / AT_ONCE).as_secs_f64())
}

struct Target<'a> {
    port: u16,
    process: u32,
    ca: &'a Ca,
    operator: &'a Issued,
}

impl Target<'_> {
    async fn channel(&self) -> Outcome<Channel> {
        Ok(endpoint(self.port, self.operator.client_tls(self.ca)).connect().await?)
    }

    /// Returns once it signs.
    async fn store_key(&self) -> Outcome<()> {
        let request = AddSecretVersionRequest {
            parent: "stores/local/secrets/issuer-key".into(),
            payload: KeyPair::generate()?.serialize_pem().into_bytes().into(),
            allow_missing: true,
            ..Default::default()
        };
        SecretServiceClient::new(self.channel().await?).add_secret_version(request).await?;
        let mut tokens = TokenServiceClient::new(self.channel().await?);
        while tokens.mint_database_token(request_of_one()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn rate(&self) -> Outcome<f64> {
        let (begun, spent) = (Instant::now(), processor_time(self.process)?);
        let mut working = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            let channel = self.channel().await?;
            for _ in 0..IN_FLIGHT {
                let mut client = TokenServiceClient::new(channel.clone());
                working.spawn(async move {
                    let mut made = 0_u32;
                    while begun.elapsed() < ROUND {
                        client.mint_database_token(request_of_one()).await?;
                        made += 1;
                    }
                    Outcome::Ok(made)
                });
            }
        }
        let mut all = 0;
        while let Some(made) = working.join_next().await {
            all += made??;
        }
        Ok(f64::from(all) / (processor_time(self.process)? - spent))
    }
}

fn request_of_one() -> MintDatabaseTokenRequest {
    MintDatabaseTokenRequest { name: "databases/orders/roles/app".into(), ..Default::default() }
}

/// Ended with the measurement.
struct Bare(Child);

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn echo(directory: &Path) -> Outcome<()> {
    let read = |name: &str| fs::read(directory.join(name));
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(read("server.pem")?, read("server.key")?))
        .client_ca_root(Certificate::from_pem(read("ca.pem")?));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?.port());
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = Server::builder().tls_config(tls)?.add_service(TokenServiceServer::new(Echo));
        Ok(server.serve_with_incoming(incoming).await?)
    })
}

struct Echo;

#[tonic::async_trait]
impl TokenService for Echo {
    async fn mint_database_token(
        &self,
        request: Request<MintDatabaseTokenRequest>,
    ) -> Result<Response<MintDatabaseTokenResponse>, Status> {
        let user = request.into_inner().name;
        Ok(Response::new(MintDatabaseTokenResponse { user, ..Default::default() }))
    }

    async fn list_database_roles(
        &self,
        _: Request<ListDatabaseRolesRequest>,
    ) -> Result<Response<ListDatabaseRolesResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn renew_lease(&self, _: Request<RenewLeaseRequest>) -> Result<Response<RenewLeaseResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn revoke_lease(&self, _: Request<RevokeLeaseRequest>) -> Result<Response<RevokeLeaseResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_leases(&self, _: Request<ListLeasesRequest>) -> Result<Response<ListLeasesResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
