//! Requests and answers: who asks, what for, and in which form it is answered.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri, header};
use serde_json::{Value, json};

use super::refusal::Refusal;
use super::secrets::Part;
use super::{Backend, HOST, Operation};
use crate::doubles::http::{Answer, Handler, json as answer, spoil, whole};

const API_VERSIONS: [&str; 5] = ["7.4", "7.5", "7.6", "2025-07-01", "2026-04-01"];
const TENANT: &str = "11111111-2222-3333-4444-555555555555";

pub(super) fn handler(backend: Arc<Backend>) -> Handler {
    Arc::new(move |request| {
        let backend = Arc::clone(&backend);
        Box::pin(async move { backend.answer(request).await })
    })
}

impl Backend {
    async fn answer(&self, request: Request<Bytes>) -> Answer {
        if bearer(&request).is_none() {
            *self.counts.lock().unwrap().entry(Operation::Challenge).or_default() += 1;
            return self.challenge();
        }
        let asked = Asked::of(request.method(), request.uri());
        if let Ok(asked) = &asked {
            *self.counts.lock().unwrap().entry(asked.operation).or_default() += 1;
        }
        let faulty = *self.faulty.lock().unwrap();
        let spared = faulty.is_some_and(|faulty| asked.as_ref().is_ok_and(|asked| asked.operation != faulty));
        let fault = if spared { None } else { self.faults.next() };
        let refused = |refusal: Refusal| match refusal.status {
            StatusCode::UNAUTHORIZED => self.challenge(),
            _ => refusal.answer(),
        };
        let answered = match fault.and_then(Refusal::of) {
            Some(refusal) => refusal.answer(),
            None => asked.and_then(|asked| self.perform(&asked, &request)).unwrap_or_else(refused),
        };
        spoil(answered, fault).await
    }

    fn challenge(&self) -> Answer {
        let resource = self.resource.lock().unwrap();
        let challenge =
            format!(r#"Bearer authorization="https://login.microsoftonline.com/{TENANT}", resource="{resource}""#);
        let mut answer = Refusal::unauthorized().answer();
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge.parse().unwrap());
        answer
    }

    fn perform(&self, asked: &Asked<'_>, request: &Request<Bytes>) -> Result<Answer, Refusal> {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        if host.and_then(|host| host.split(':').next()) != Some(HOST) {
            return Err(Refusal::bad_parameter("The host is not this vault."));
        }
        let token = bearer(request).unwrap_or_default();
        if !self.tokens.lock().unwrap().iter().any(|verify| verify(token)) {
            return Err(Refusal::unauthorized());
        }
        if let Some((operations, code)) = &*self.denial.lock().unwrap()
            && operations.contains(&asked.operation)
        {
            return Err(Refusal::forbidden(code));
        }
        asked.check()?;
        let body = || {
            let is_json = request
                .headers()
                .get(header::CONTENT_TYPE)
                .is_some_and(|kind| kind.to_str().is_ok_and(|kind| kind.starts_with("application/json")));
            let body: Option<Value> = serde_json::from_slice(request.body()).ok().filter(|_| is_json);
            body.ok_or_else(|| Refusal::bad_parameter("The body is no JSON."))
        };
        let mut secrets = self.secrets.lock().unwrap();
        let (name, from, size) = (asked.name, asked.from()?, asked.size()?);
        let answered = match asked.operation {
            Operation::Get => secrets.get(name, asked.version)?,
            Operation::Set => secrets.set(name, &body()?)?,
            Operation::Update => secrets.update(name, asked.version, &body()?)?,
            Operation::Delete => secrets.delete(name)?,
            Operation::List => self.page(asked, secrets.list(from, size)),
            Operation::ListVersions => self.page(asked, secrets.versions(name, from, size)),
            Operation::GetDeleted => secrets.get_deleted(name)?,
            Operation::ListDeleted => self.page(asked, secrets.list_deleted(from, size)),
            Operation::Recover => secrets.recover(name)?,
            Operation::Challenge => return Err(Refusal::unauthorized()),
            Operation::Purge => {
                secrets.purge(name)?;
                let mut empty = Response::new(whole(Bytes::new()));
                *empty.status_mut() = StatusCode::NO_CONTENT;
                return Ok(empty);
            }
        };
        Ok(answer(StatusCode::OK, &answered))
    }

    fn page(&self, asked: &Asked<'_>, Part { items, next }: Part) -> Value {
        let (origin, path) = (self.pages_at.lock().unwrap(), asked.path);
        let version = asked.parameters["api-version"];
        let size = asked.parameters.get("maxresults").map(|size| format!("&maxresults={size}")).unwrap_or_default();
        let next = next.map(|next| format!("{origin}{path}?api-version={version}&$skiptoken={next}{size}"));
        json!({ "value": Value::Array(items), "nextLink": next })
    }
}

struct Asked<'a> {
    operation: Operation,
    path: &'a str,
    name: &'a str,
    version: Option<&'a str>,
    parameters: HashMap<&'a str, &'a str>,
}

impl<'a> Asked<'a> {
    fn of(method: &Method, uri: &'a Uri) -> Result<Self, Refusal> {
        let path = uri.path();
        let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
        let (operation, name, version) = match (method.as_str(), &parts[..]) {
            ("GET", ["secrets"]) => (Operation::List, "", None),
            ("GET", ["secrets", name, "versions"]) => (Operation::ListVersions, *name, None),
            ("GET", ["secrets", name] | ["secrets", name, ""]) => (Operation::Get, *name, None),
            ("GET", ["secrets", name, version]) => (Operation::Get, *name, Some(*version)),
            ("PUT", ["secrets", name]) => (Operation::Set, *name, None),
            ("PATCH", ["secrets", name, ""]) => (Operation::Update, *name, None),
            ("PATCH", ["secrets", name, version]) => (Operation::Update, *name, Some(*version)),
            ("DELETE", ["secrets", name]) => (Operation::Delete, *name, None),
            ("GET", ["deletedsecrets"]) => (Operation::ListDeleted, "", None),
            ("GET", ["deletedsecrets", name]) => (Operation::GetDeleted, *name, None),
            ("POST", ["deletedsecrets", name, "recover"]) => (Operation::Recover, *name, None),
            ("DELETE", ["deletedsecrets", name]) => (Operation::Purge, *name, None),
            _ => return Err(Refusal::method_not_allowed()),
        };
        let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let parameters = pairs.map(|(name, value)| (name.strip_prefix("%24").unwrap_or(name), value));
        let parameters = parameters.map(|(name, value)| (name.trim_start_matches('$'), value)).collect();
        Ok(Self { operation, path, name, version, parameters })
    }

    fn check(&self) -> Result<(), Refusal> {
        if !self.parameters.get("api-version").is_some_and(|version| API_VERSIONS.contains(version)) {
            return Err(Refusal::bad_parameter("The api-version is missing or unknown."));
        }
        let listing = matches!(self.operation, Operation::List | Operation::ListDeleted);
        let is_name = |name: &str| {
            (1..=127).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if listing || is_name(self.name) { Ok(()) } else { Err(Refusal::bad_parameter("The name is not valid.")) }
    }

    fn from(&self) -> Result<usize, Refusal> {
        self.number("skiptoken", 0)
    }

    fn size(&self) -> Result<usize, Refusal> {
        self.number("maxresults", 25)
    }

    fn number(&self, parameter: &str, default: usize) -> Result<usize, Refusal> {
        let number = self.parameters.get(parameter).map_or(Ok(default), |text| text.parse());
        number.map_err(|_| Refusal::bad_parameter(format!("{parameter} is not valid.")))
    }
}

fn bearer(request: &Request<Bytes>) -> Option<&str> {
    request.headers().get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}
