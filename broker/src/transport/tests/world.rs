//! A CA, files on disk, a clock that stands still, a served listener, and clients that speak to it.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::body::Body;

use super::super::{ClientCertificate, Connection, Drain, Limits, Tls, TlsSettings, TlsVersion, serve};
use crate::clock::{Clock, Timestamp};

/// The first of June 2026.
pub(super) const NOW: Timestamp = Timestamp::from_secs(1_780_272_000);

#[derive(Debug)]
pub(super) struct StillClock(AtomicU64);

impl StillClock {
    pub(super) fn advance(&self, span: Duration) {
        self.0.fetch_add(u64::try_from(span.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for StillClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }

    #[expect(clippy::disallowed_methods, reason = "measures nothing in these tests")]
    fn monotonic(&self) -> Instant {
        Instant::now()
    }
}

pub(super) struct Ca(CertifiedIssuer<'static, KeyPair>);

#[derive(Clone)]
pub(super) struct Identity {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Ca {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(super) fn issue(&self, shape: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        shape(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A workload `name`, with a serial number to revoke it by.
    pub(super) fn client(&self, name: &str, serial: u64) -> Identity {
        self.issue(|params| {
            let uri = format!("spiffe://test.example/{name}");
            params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
            params.serial_number = Some(SerialNumber::from(serial));
        })
    }

    pub(super) fn revoking(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: rcgen::date_time_ymd(2026, 5, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2026, 5, 1),
            next_update: rcgen::date_time_ymd(2026, 7, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// The CAs made once for all tests: `ours` is trusted, `other` is not.
pub(super) fn ours() -> &'static Ca {
    static CA: OnceLock<Ca> = OnceLock::new();
    CA.get_or_init(|| Ca::new("ours"))
}

pub(super) fn other() -> &'static Ca {
    static CA: OnceLock<Ca> = OnceLock::new();
    CA.get_or_init(|| Ca::new("other"))
}

/// The files of one broker.
pub(super) struct Files {
    directory: TempDir,
}

impl Files {
    pub(super) fn new() -> Self {
        let files = Self { directory: tempfile::tempdir().unwrap() };
        files.put_server(&ours().issue(|_| {}));
        files.put("ca.pem", &ours().pem());
        files
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(super) fn put_server(&self, identity: &Identity) {
        self.put("server.pem", &identity.certificate);
        self.put("server.key", &identity.key);
    }

    pub(super) fn settings(&self) -> TlsSettings {
        TlsSettings {
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            client_ca: vec![self.path("ca.pem")],
            client_crls: vec![],
            trust_domains: [("test.example".to_owned(), self.path("ca.pem"))].into(),
            client_certificate: ClientCertificate::Required,
            minimum_version: TlsVersion::V1_3,
            reload_interval: Duration::from_millis(20),
        }
    }
}

pub(in crate::transport) fn limits() -> Limits {
    Limits {
        connections: 1000,
        handshakes: 100,
        handshake_timeout: Duration::from_secs(30),
        streams_per_connection: 100,
        header_bytes: 16 * 1024,
        message_bytes: 256 * 1024,
        request_timeout: Duration::from_secs(30),
        calls_in_flight: 1000,
        streams: 1000,
        watch_backlog: 1000,
        default_deadline: Duration::from_secs(30),
        maximum_deadline: Duration::from_secs(60),
        keepalive_interval: Duration::from_secs(30),
        keepalive_timeout: Duration::from_secs(20),
        drain_grace: Duration::from_secs(30),
    }
}

pub(super) struct Broker {
    pub(super) address: SocketAddr,
    pub(super) tls: Arc<Tls>,
    pub(super) clock: Arc<StillClock>,
    pub(super) drain: Drain,
    pub(super) slow: Arc<Slow>,
    pub(super) serving: JoinHandle<()>,
}

/// Calls to `/slow` announce themselves and wait to be released.
#[derive(Debug)]
pub(super) struct Slow {
    pub(super) entered: Semaphore,
    pub(super) release: Semaphore,
    pub(super) dropped: Semaphore,
}

impl Broker {
    pub(super) async fn start(files: &Files) -> Self {
        Self::with(files.settings(), limits()).await
    }

    pub(super) async fn with(settings: TlsSettings, limits: Limits) -> Self {
        let clock = Arc::new(StillClock(AtomicU64::new(NOW.as_micros())));
        let tls = Tls::load(&settings, clock.clone()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = Drain::new();
        let slow =
            Arc::new(Slow { entered: Semaphore::new(0), release: Semaphore::new(0), dropped: Semaphore::new(0) });
        let service = {
            let slow = slow.clone();
            tower::service_fn(move |request| answer(request, slow.clone()))
        };
        let serving = {
            let (tls, drain) = (tls.clone(), drain.clone());
            tokio::spawn(async move { serve(listener, tls, &limits, service, drain).await })
        };
        Self { address, tls, clock, drain, slow, serving }
    }

    pub(super) async fn dial(&self, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// An HTTP/2 connection that has answered a call.
    pub(super) async fn client(&self, identity: &Identity) -> Client {
        self.try_client(identity).await.unwrap()
    }

    pub(super) async fn try_client(&self, identity: &Identity) -> Result<Client, String> {
        let mut client = self.try_connected(identity).await?;
        client.call("/").await?;
        Ok(client)
    }

    /// An HTTP/2 connection on which nothing was called yet.
    pub(super) async fn connected(&self, identity: &Identity) -> Client {
        self.try_connected(identity).await.unwrap()
    }

    async fn try_connected(&self, identity: &Identity) -> Result<Client, String> {
        let stream = self.dial(config(Some(identity), &TLS13)).await.map_err(text)?;
        let server = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
        let io = TokioIo::new(stream);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(text)?;
        let connection = tokio::spawn(async { drop(connection.await) });
        Ok(Client { sender, connection, server })
    }

    /// The alert by which the broker turns this client away.
    pub(super) async fn alert_for(&self, identity: Option<&Identity>) -> AlertDescription {
        let outcome = async {
            let mut stream = self.dial(config(identity, &TLS13)).await?;
            stream.read_u8().await
        };
        let error = outcome.await.unwrap_err();
        match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => *alert,
            _ => panic!("no alert but {error:?}"),
        }
    }
}

async fn answer(request: Request<Incoming>, slow: Arc<Slow>) -> Result<Response<Body>, Infallible> {
    struct Announce(Arc<Slow>);
    impl Drop for Announce {
        fn drop(&mut self) {
            self.0.dropped.add_permits(1);
        }
    }
    if request.uri().path() == "/slow" {
        let _announce = Announce(slow.clone());
        slow.entered.add_permits(1);
        slow.release.acquire().await.unwrap().forget();
    }
    if request.uri().path() == "/large" {
        let large = http_body_util::Full::new(Bytes::from(vec![0; 64 * 1024 * 1024]));
        return Ok(Response::new(Body::new(large)));
    }
    let connection = request.extensions().get::<Arc<Connection>>().unwrap();
    let text = match connection.certificate() {
        Ok(None) => "absent".to_owned(),
        Ok(Some(certificate)) => {
            certificate.spiffe_id().unwrap().map_or_else(|| "nobody".to_owned(), |id| id.path().to_owned())
        }
        Err(refusal) => format!("{refusal:?}"),
    };
    Ok(Response::new(Body::new(http_body_util::Full::new(Bytes::from(text)))))
}

pub(super) struct Client {
    pub(super) sender: http2::SendRequest<Empty<Bytes>>,
    pub(super) connection: JoinHandle<()>,
    pub(super) server: CertificateDer<'static>,
}

impl Client {
    /// What the broker says about this client's certificate.
    pub(super) async fn call(&mut self, path: &str) -> Result<String, String> {
        self.sender.ready().await.map_err(text)?;
        let request = Request::get(format!("https://localhost{path}")).body(Empty::new()).unwrap();
        let response = self.sender.send_request(request).await.map_err(text)?;
        let body = response.into_body().collect().await.map_err(text)?.to_bytes();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }
}

pub(super) async fn http1_client(stream: TlsStream<TcpStream>) -> (http1::SendRequest<Empty<Bytes>>, JoinHandle<()>) {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    (sender, tokio::spawn(async { drop(connection.await) }))
}

/// A client of one TLS version that offers HTTP/2.
pub(super) fn config(identity: Option<&Identity>, version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ours().pem().as_bytes()).unwrap()).unwrap();
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(crypto)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Polls until `condition` holds; a test that hangs here has failed.
pub(super) async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap();
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}
