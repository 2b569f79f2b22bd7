//! The broker with everything on: a certificate and a token bound to it, a hundred policies, quotas, audit, metrics.

use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::Path;

use keyferry_benches::Outcome;
use keyferry_benches::load::{Load, Protocol, Request, Server};
use keyferry_benches::processor::on_one_core;
use keyferry_broker::audit::Mode;
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::{AddSecretVersionRequest, GetSecretRequest};
use keyferry_tests::broker::{endpoint, prepare};
use keyferry_tests::issuer::Issuer;
use keyferry_tests::pki::{Ca, Issued};
use keyferry_tests::process::Process;
use prost::Message as _;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::Status;

pub(crate) const PAYLOAD: [u8; 1024] = [0xa5; 1024];
const SECRET: &str = "stores/local/secrets/orders-db-password";
const PATH: &str = "/keyferry.v1.SecretService/GetSecret";
const POLICIES: usize = 100;
/// Longer than any measurement.
const TOKEN_LIFE: u64 = 12 * 3600;
/// How many tokens are presented at once.
const PRESENTERS: usize = 64;

/// Files that a server needs, and who calls it.
pub(crate) struct World {
    ca: Ca,
    client: Issued,
    issuer: Issuer,
    directory: TempDir,
}

pub(crate) struct Broker {
    process: Process,
    world: World,
}

impl World {
    pub(crate) fn new(more: &str) -> Outcome<Self> {
        let (directory, ca, issuer) = (TempDir::new()?, Ca::new("bench CA"), Issuer::new("bench"));
        prepare(directory.path(), &ca, &format!("{}{more}", Issuer::configuration()));
        issuer.write_keys(directory.path());
        fs::write(directory.path().join("policy/test.cedar"), policies())?;
        Ok(Self { client: ca.client("client"), ca, issuer, directory })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Reads the secret on each of so many connections.
    pub(crate) fn load(&self, port: u16, connections: usize) -> Outcome<Load> {
        let ca = self.ca.pem();
        let server = Server {
            port,
            name: "keyferry.test",
            ca: &ca,
            identity: Some((&self.client.certificate, &self.client.key)),
            protocol: Protocol::Http2,
        };
        let message = request().encode_to_vec();
        Load::open(&server, &Request::grpc(PATH, &message, Some(&self.token("client", "")), PAYLOAD.len()), connections)
    }

    fn request(&self, subject: &str, id: &str) -> Outcome<tonic::Request<GetSecretRequest>> {
        let mut request = tonic::Request::new(request());
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.token(subject, id)).parse()?);
        Ok(request)
    }

    fn token(&self, subject: &str, id: &str) -> String {
        let expires = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_secs() + TOKEN_LIFE;
        let mut claims = Issuer::binding(&self.client.der);
        claims["exp"] = expires.into();
        claims["jti"] = id.into();
        self.issuer.token(subject, &claims)
    }
}

impl Broker {
    pub(crate) fn start(binary: &Path, audit: Mode) -> Outcome<Self> {
        let mode = match audit {
            Mode::Written => "written",
            Mode::Synced => "synced",
        };
        let world = World::new(&format!("[audit]\nmode = \"{mode}\"\n"))?;
        let mut command = on_one_core(&binary.canonicalize()?);
        let process = Process::start(command.args(["serve", "--config"]).arg(world.path().join("keyferry.toml")));
        let broker = Self { process, world };
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(broker.fill())?;
        Ok(broker)
    }

    /// Stores the secret, and makes sure with an ordinary client that it is read by who may, and by nobody else.
    async fn fill(&self) -> Outcome<()> {
        let (port, world) = (self.process.grpc().port(), &self.world);
        let connect = |who: &Issued| endpoint(port, who.client_tls(&world.ca));
        let added = AddSecretVersionRequest {
            parent: SECRET.to_owned(),
            payload: PAYLOAD.to_vec().into(),
            allow_missing: true,
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            ..AddSecretVersionRequest::default()
        };
        SecretServiceClient::new(connect(&world.ca.client("operator")).connect().await?)
            .add_secret_version(added)
            .await?;
        let mut reader = SecretServiceClient::new(connect(&world.client).connect().await?);
        if reader.get_secret(world.request("client", "")?).await?.into_inner().payload != PAYLOAD[..] {
            return Err("the broker answers with something else".into());
        }
        if reader.get_secret(request()).await.is_ok() || reader.get_secret(world.request("another", "")?).await.is_ok()
        {
            return Err("the broker answers without its token".into());
        }
        Ok(())
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// A call with each of these tokens; the callers take turns.
    pub(crate) fn present_tokens(&self, callers: usize, tokens: Range<usize>) -> Outcome<()> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let (port, world) = (self.process.grpc().port(), &self.world);
            let channel = endpoint(port, world.client.client_tls(&world.ca)).connect().await?;
            let mut calls: JoinSet<Result<(), Status>> = JoinSet::new();
            for number in tokens {
                if calls.len() >= PRESENTERS {
                    calls.join_next().await.ok_or("no call")???;
                }
                let request = world.request(&format!("client-{}", number % callers), &number.to_string())?;
                let mut client = SecretServiceClient::new(channel.clone());
                calls.spawn(async move { client.get_secret(request).await.map(drop) });
            }
            while let Some(call) = calls.join_next().await {
                call??;
            }
            Ok(())
        })
    }

    pub(crate) fn load(&self, connections: usize) -> Outcome<Load> {
        self.world.load(self.process.grpc().port(), connections)
    }
}

fn request() -> GetSecretRequest {
    GetSecretRequest { name: SECRET.to_owned(), ..GetSecretRequest::default() }
}

/// One for the operator, one that wants the reader's certificate, token and the secret's label, the others of others.
fn policies() -> String {
    let mut text = r#"
@id("operator")
permit (principal, action, resource)
when { principal has certificate && principal.certificate has spiffe && principal.certificate.spiffe.path == "/operator" };
"#
    .to_owned();
    for number in 2..=POLICIES {
        let who = if number == POLICIES { "client".to_owned() } else { format!("other-{number}") };
        write!(
            text,
            r#"
@id("p{number}")
permit (principal, action in [Keyferry::Action::"Read"], resource is Keyferry::Secret)
when {{
    principal has certificate && principal.certificate has spiffe && principal.certificate.spiffe.path == "/{who}"
    && principal has token && principal.token.subject like "{who}*"
    && resource.hasTag("env") && resource.getTag("env") == "prod"
}};
"#
        )
        .expect("text takes all");
    }
    text
}
