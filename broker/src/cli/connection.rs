//! How the verbs that ask a broker reach it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use keyferry_proto::v1::operator_service_client::OperatorServiceClient;
use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use super::{Complaint, chain};

const PATIENCE: Duration = Duration::from_secs(10);

/// Which broker, and as whom. Each option has a variable, so that it need be said once only.
#[derive(Debug, clap::Args)]
pub(super) struct Server {
    /// The broker, https://HOST:PORT; $KEYFERRY_SERVER where it is left out
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// CAs (PEM) of the broker's certificate; $KEYFERRY_CA, or the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Your certificate (PEM); $KEYFERRY_CERT
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Your certificate's key (PEM); $KEYFERRY_KEY
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A file with your own token; $KEYFERRY_TOKEN_FILE
    #[arg(long, value_name = "FILE")]
    own_token_file: Option<PathBuf>,
}

/// A connection with the credentials that go with each call.
pub(super) struct Connection(Authenticated);

pub(super) type Authenticated = InterceptedService<Channel, Bearer>;

/// The caller's token, if there is one.
#[derive(Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Server {
    pub(super) async fn connect(&self) -> Result<Connection, Complaint> {
        let server = self
            .server
            .clone()
            .or_else(|| std::env::var("KEYFERRY_SERVER").ok())
            .ok_or("no broker: give --server https://HOST:PORT, or set KEYFERRY_SERVER")?;
        if !server.starts_with("https://") {
            return Err(format!("--server {server} is no https:// URL; a broker speaks TLS only").into());
        }
        let mut tls = match given(self.ca.as_ref(), "KEYFERRY_CA") {
            Some(file) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&file)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match (given(self.cert.as_ref(), "KEYFERRY_CERT"), given(self.key.as_ref(), "KEYFERRY_KEY")) {
            (Some(certificate), Some(key)) => tls = tls.identity(Identity::from_pem(read(&certificate)?, read(&key)?)),
            (None, None) => {}
            (Some(_), None) => return Err("--cert without --key; give both or neither".into()),
            (None, Some(_)) => return Err("--key without --cert; give both or neither".into()),
        }
        let bearer = match given(self.own_token_file.as_ref(), "KEYFERRY_TOKEN_FILE") {
            Some(file) => Some(bearer(&read_token(&file)?)?),
            None => None,
        };
        let endpoint =
            Endpoint::from_shared(server.clone())?.tls_config(tls)?.connect_timeout(PATIENCE).timeout(PATIENCE);
        let channel = endpoint.connect().await.map_err(|error| {
            format!("cannot reach {server}: {}; see --server, --ca, --cert and --key", chain(&error))
        })?;
        Ok(Connection(InterceptedService::new(channel, Bearer(bearer))))
    }
}

impl Connection {
    pub(super) fn operator(&self) -> OperatorServiceClient<Authenticated> {
        OperatorServiceClient::new(self.0.clone())
    }

    pub(super) fn rotations(&self) -> RotationServiceClient<Authenticated> {
        RotationServiceClient::new(self.0.clone())
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(bearer) = &self.0 {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        Ok(request)
    }
}

/// What the broker said instead of an answer.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn refusal(status: Status) -> Complaint {
    format!("the broker refused: {} ({})", status.message(), status.code().description()).into()
}

/// A token as it lies in a file, with or without a newline at its end.
pub(super) fn read_token(file: &Path) -> Result<String, Complaint> {
    let text = String::from_utf8(read(file)?).map_err(|_| format!("{} holds no token", file.display()))?;
    Ok(text.trim().to_owned())
}

fn given(option: Option<&PathBuf>, variable: &str) -> Option<PathBuf> {
    option.cloned().or_else(|| std::env::var_os(variable).map(PathBuf::from))
}

fn bearer(token: &str) -> Result<MetadataValue<Ascii>, Complaint> {
    let mut value: MetadataValue<Ascii> =
        format!("Bearer {token}").parse().map_err(|_| "the token has characters that no token has")?;
    value.set_sensitive(true);
    Ok(value)
}

fn read(file: &Path) -> Result<Vec<u8>, Complaint> {
    std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()).into())
}

/// Runs what one verb asks.
pub(super) fn block_on<T>(ask: impl Future<Output = Result<T, Complaint>>) -> Result<T, Complaint> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(ask)
}
