//! An issuer's web server on loopback: HTTPS with a CA of its own, and faults to switch on.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub(super) struct KeyServer {
    pub(super) url: String,
    pub(super) ca: PathBuf,
    shared: Arc<Shared>,
    _files: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

struct Shared {
    answers: Mutex<Answers>,
    /// Requests for the key set.
    fetches: AtomicUsize,
    /// Requests to where only a careless client gets.
    strays: AtomicUsize,
    /// Held back while there is no permit.
    gate: Semaphore,
    arrived: Semaphore,
}

struct Answers {
    discovery: Value,
    keys: String,
    fault: Option<Fault>,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fault {
    Error,
    Redirect,
    Oversize,
    Garbage,
    Truncated,
}

const OPEN: usize = 1_000_000;

impl KeyServer {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let files = tempfile::tempdir().unwrap();
        let ca = files.path().join("ca.pem");
        let acceptor = acceptor(&ca);
        let answers = Answers {
            discovery: json!({ "issuer": url, "jwks_uri": format!("{url}/keys") }),
            keys: json!({ "keys": [] }).to_string(),
            fault: None,
        };
        let shared = Arc::new(Shared {
            answers: Mutex::new(answers),
            fetches: AtomicUsize::new(0),
            strays: AtomicUsize::new(0),
            gate: Semaphore::new(OPEN),
            arrived: Semaphore::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, acceptor, Arc::clone(&shared)));
        Self { url, ca, shared, _files: files, _tasks: tasks }
    }

    pub(super) fn publish(&self, keys: &[&Value]) {
        self.shared.answers.lock().unwrap().keys = json!({ "keys": keys }).to_string();
    }

    pub(super) fn publish_text(&self, keys: &str) {
        self.shared.answers.lock().unwrap().keys = keys.to_owned();
    }

    pub(super) fn discover(&self, member: &str, value: Value) {
        self.shared.answers.lock().unwrap().discovery[member] = value;
    }

    pub(super) fn fail(&self, fault: Option<Fault>) {
        self.shared.answers.lock().unwrap().fault = fault;
    }

    pub(super) fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::SeqCst)
    }

    pub(super) fn strays(&self) -> usize {
        self.shared.strays.load(Ordering::SeqCst)
    }

    /// From now on requests for the key set wait.
    pub(super) async fn hold(&self) {
        self.shared.gate.acquire_many(u32::try_from(OPEN).unwrap()).await.unwrap().forget();
        let come = self.shared.arrived.available_permits();
        self.shared.arrived.forget_permits(come);
    }

    /// Waits until one does.
    pub(super) async fn held(&self) {
        self.shared.arrived.acquire().await.unwrap().forget();
    }

    pub(super) fn release(&self) {
        self.shared.gate.add_permits(OPEN);
    }
}

async fn serve(listener: TcpListener, acceptor: tokio_rustls::TlsAcceptor, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            // A client that does not trust this server, or hangs up on a fault, is what some tests are about.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request| answer(request, &shared));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn answer(request: Request<Incoming>, shared: &Shared) -> Result<Answer, Infallible> {
    match request.uri().path() {
        "/.well-known/openid-configuration" => Ok(json_answer(&shared.answers.lock().unwrap().discovery.to_string())),
        "/keys" => {
            shared.fetches.fetch_add(1, Ordering::SeqCst);
            shared.arrived.add_permits(1);
            let _pass = shared.gate.acquire().await.unwrap();
            let answers = shared.answers.lock().unwrap();
            Ok(faulty(answers.fault, &answers.keys))
        }
        _ => {
            shared.strays.fetch_add(1, Ordering::SeqCst);
            Ok(json_answer(&shared.answers.lock().unwrap().keys))
        }
    }
}

fn faulty(fault: Option<Fault>, keys: &str) -> Answer {
    match fault {
        None => json_answer(keys),
        Some(Fault::Error) => Response::builder().status(500).body(Full::from(keys.to_owned()).boxed()).unwrap(),
        Some(Fault::Redirect) => Response::builder()
            .status(302)
            .header("location", "/elsewhere")
            .body(Full::from(keys.to_owned()).boxed())
            .unwrap(),
        Some(Fault::Oversize) => {
            // Without end and without a length, so that only a client that counts gets away.
            let chunk = Bytes::from(vec![b' '; 64 * 1024]);
            let endless = futures_util::stream::repeat_with(move || Ok(Frame::data(chunk.clone())));
            Response::new(StreamBody::new(endless).boxed())
        }
        Some(Fault::Garbage) => json_answer("<html>the wrong page</html>"),
        Some(Fault::Truncated) => json_answer(&keys[..keys.len() / 2]),
    }
}

fn json_answer(text: &str) -> Answer {
    Response::new(Full::from(text.to_owned()).boxed())
}

fn acceptor(ca: &std::path::Path) -> tokio_rustls::TlsAcceptor {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&ca_key).unwrap();
    std::fs::write(ca, certificate.pem()).unwrap();
    let signer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &signer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}
