//! One listener that plays every cloud endpoint, by path.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub(super) struct Double {
    pub(super) url: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    /// By what the path contains.
    answers: Mutex<BTreeMap<&'static str, (u16, Bytes)>>,
    seen: Mutex<Vec<Seen>>,
}

#[derive(Clone)]
pub(super) struct Seen {
    pub(super) path: String,
    /// Of the query and of the form, or the JSON body as `json`.
    pub(super) fields: BTreeMap<String, String>,
    pub(super) headers: HeaderMap,
}

pub(super) const IMDS: &str = "/metadata/identity";
pub(super) const STS: &str = "/sts";
pub(super) const ACCESS: &str = ":generateAccessToken";
pub(super) const ID: &str = ":generateIdToken";
pub(super) const ENTRA: &str = "/oauth2/v2.0/token";
pub(super) const METADATA_TOKEN: &str = "/default/token";
pub(super) const METADATA_EMAIL: &str = "/default/email";
pub(super) const METADATA_IDENTITY: &str = "/default/identity";

impl Double {
    /// Everything answers as it should.
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(&shared)));
        let double = Self { url, shared, _tasks: tasks };
        let azure = jwt("https://sts.windows.net/t/", "managed-1", "api://keyferry");
        double.json(IMDS, 200, &json!({ "access_token": azure, "expires_in": "86399", "expires_on": "1800086399" }));
        double.json(STS, 200, &json!({ "access_token": "federated", "expires_in": 3600, "token_type": "Bearer" }));
        double.json(ACCESS, 200, &json!({ "accessToken": "impersonated", "expireTime": "2027-01-15T08:30:00Z" }));
        let google = jwt("https://accounts.google.com", "1234567890", "api://AzureADTokenExchange");
        double.json(ID, 200, &json!({ "token": google }));
        double.json(ENTRA, 200, &json!({ "access_token": "entra", "expires_in": 3599 }));
        double.json(METADATA_TOKEN, 200, &json!({ "access_token": "google", "expires_in": 3599 }));
        double.answer(METADATA_EMAIL, 200, "broker@p.iam.gserviceaccount.com");
        double.answer(METADATA_IDENTITY, 200, &google);
        double
    }

    pub(super) fn answer(&self, path: &'static str, status: u16, body: &str) {
        self.shared.answers.lock().unwrap().insert(path, (status, Bytes::copy_from_slice(body.as_bytes())));
    }

    pub(super) fn json(&self, path: &'static str, status: u16, body: &Value) {
        self.answer(path, status, &body.to_string());
    }

    pub(super) fn seen(&self, path: &str) -> Seen {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter()
            .rev()
            .find(|seen| seen.path.contains(path))
            .unwrap_or_else(|| panic!("{path} was not asked"))
            .clone()
    }

    pub(super) fn requests(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(|request| answer(Arc::clone(&shared), request));
            // A client that goes away is no fault of the double's.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut fields = fields_of(head.uri.query().unwrap_or_default());
    match body.first() {
        Some(b'{') => drop(fields.insert("json".to_owned(), String::from_utf8(body.to_vec()).unwrap())),
        _ => fields.extend(fields_of(str::from_utf8(&body).unwrap())),
    }
    let path = head.uri.path().to_owned();
    let found = {
        let answers = shared.answers.lock().unwrap();
        answers.iter().find(|(part, _)| path.contains(**part)).map(|(_, answer)| answer.clone())
    };
    shared.seen.lock().unwrap().push(Seen { path: path.clone(), fields, headers: head.headers });
    let (status, body) = found.unwrap_or((404, Bytes::new()));
    let mut response = Response::builder().status(status);
    if path.starts_with("/computeMetadata") {
        response = response.header("metadata-flavor", "Google");
    }
    if (300..400).contains(&status) {
        response = response.header("location", "/elsewhere");
    }
    Ok(response.body(Full::new(body)).unwrap())
}

fn fields_of(encoded: &str) -> BTreeMap<String, String> {
    let url = reqwest::Url::parse(&format!("http://x/?{encoded}")).unwrap();
    url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

/// Signed by nobody: the broker reads its own tokens only to explain.
pub(super) fn jwt(issuer: &str, subject: &str, audience: &str) -> String {
    use base64::Engine as _;
    let encode = |value: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({ "iss": issuer, "sub": subject, "aud": audience });
    format!("{}.{}.c2ln", encode(json!({ "alg": "RS256" })), encode(claims))
}
