//! Azure's management API as far as named values of API Management go: they are refreshed out of a vault, at once or by
//! an operation that is asked about.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderValue, Method, Request, StatusCode};
use keyferry_broker::clock::{Clock as _, SystemClock, Timestamp};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::faults::{Fault, Faults};
use super::http::{Answer, Server, json as answer, serve, spoil};
use super::identity::{EntraIdentity, header};
use super::key_vault::KeyVault;

pub const SERVICE: &str = "/subscriptions/00000000-0000-0000-0000-00000000000a/resourceGroups/gateway/providers/\
                           Microsoft.ApiManagement/service/acme";
pub const RESOURCE: &str = "https://management.azure.com";
const VERSION: &str = "api-version=2024-05-01";

/// One service that serves until it is dropped.
#[derive(Debug)]
pub struct ApiManagement {
    backend: Arc<Backend>,
    server: Server,
}

/// How a refresh is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    #[default]
    AtOnce,
    /// 202, and where the outcome will be.
    Location,
    /// 202, and where its status will be; the outcome is the named value's own.
    AsyncOperation,
    /// The same, and it fails in the end.
    Failing,
    /// 202, and on to another origin.
    Elsewhere(String),
}

/// Whose token it is.
type Holders = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

struct Backend {
    url: String,
    vault: Arc<KeyVault>,
    holders: Holders,
    named_values: Mutex<BTreeMap<String, NamedValue>>,
    /// Operations that were begun, each with its named value.
    operations: Mutex<Vec<String>>,
    /// Operations stay under way.
    held: AtomicBool,
    refreshes: Mutex<Vec<(String, Timestamp)>>,
}

#[derive(Clone, Default)]
struct NamedValue {
    /// Absent: it is not out of a vault.
    identifier: Option<String>,
    value: Option<String>,
    status: &'static str,
    manner: Manner,
    faults: Faults,
}

impl ApiManagement {
    /// Lets in whoever `entra` issued a token to.
    pub async fn start(entra: &EntraIdentity, vault: Arc<KeyVault>) -> Self {
        entra.add_resource(RESOURCE);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = Arc::new(Backend {
            url: format!("http://{}", listener.local_addr().unwrap()),
            vault,
            holders: Box::new(entra.principals(RESOURCE)),
            named_values: Mutex::default(),
            operations: Mutex::default(),
            held: AtomicBool::new(false),
            refreshes: Mutex::default(),
        });
        let serving = Arc::clone(&backend);
        let handler = move |request: Request<Bytes>| {
            let backend = Arc::clone(&serving);
            async move { backend.serve(&request).await }.boxed()
        };
        Self { backend, server: serve(listener, None, Arc::new(handler)) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Of the vault's secret, or of what else the identifier names; without one, it is no vault's.
    pub fn put(&self, id: &str, identifier: Option<&str>) {
        self.change(id, |named_value| named_value.identifier = identifier.map(str::to_owned));
    }

    pub fn answer_by(&self, id: &str, manner: Manner) {
        self.change(id, |named_value| named_value.manner = manner);
    }

    /// API Management may read the vault no longer, or again.
    pub fn lock_out(&self, id: &str, is_out: bool) {
        self.change(id, |named_value| named_value.status = if is_out { "Forbidden" } else { "Success" });
    }

    pub fn delete(&self, id: &str) {
        self.backend.named_values.lock().unwrap().remove(id);
    }

    /// What befalls requests for one named value.
    pub fn faults(&self, id: &str) -> Faults {
        self.backend.named_values.lock().unwrap()[id].faults.clone()
    }

    /// Operations come to no end, or to it again.
    pub fn hold(&self, held: bool) {
        self.backend.held.store(held, Ordering::SeqCst);
    }

    /// What the gateway sends to its backends.
    pub fn value(&self, id: &str) -> Option<String> {
        self.backend.named_values.lock().unwrap()[id].value.clone()
    }

    /// When each refresh of it was asked for.
    pub fn refreshes(&self, id: &str) -> Vec<Timestamp> {
        let refreshes = self.backend.refreshes.lock().unwrap();
        refreshes.iter().filter(|(asked, _)| asked == id).map(|(_, at)| *at).collect()
    }

    fn change(&self, id: &str, edit: impl FnOnce(&mut NamedValue)) {
        let mut named_values = self.backend.named_values.lock().unwrap();
        let fresh = || NamedValue { status: "Success", ..NamedValue::default() };
        edit(named_values.entry(id.to_owned()).or_insert_with(fresh));
    }
}

impl Backend {
    async fn serve(&self, request: &Request<Bytes>) -> Answer {
        let path = request.uri().path().strip_prefix(SERVICE).unwrap_or_default();
        let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
        if let ["namedValues", id, "refreshSecret"] = *parts {
            self.refreshes.lock().unwrap().push((id.to_owned(), SystemClock.now()));
            let fault = self.named_values.lock().unwrap().get(id).and_then(|named_value| named_value.faults.next());
            let answered = match fault {
                Some(Fault::Throttle { retry_after }) => {
                    let mut throttled = error(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests");
                    let after = retry_after.map(|after| HeaderValue::from(after.as_secs()));
                    throttled.headers_mut().extend(after.map(|after| (http::header::RETRY_AFTER, after)));
                    throttled
                }
                Some(Fault::Status(code)) => error(StatusCode::from_u16(code).unwrap(), "AuthorizationFailed"),
                _ => self.answer(request, &parts),
            };
            return spoil(answered, fault).await;
        }
        self.answer(request, &parts)
    }

    fn answer(&self, request: &Request<Bytes>, parts: &[&str]) -> Answer {
        let token = header(request, "authorization").strip_prefix("Bearer ").unwrap_or_default();
        if (self.holders)(token).is_none() {
            return error(StatusCode::UNAUTHORIZED, "InvalidAuthenticationToken");
        }
        if request.uri().query() != Some(VERSION) {
            return error(StatusCode::BAD_REQUEST, "MissingApiVersionParameter");
        }
        match (request.method(), parts) {
            (&Method::POST, _) if header(request, "content-length").is_empty() => {
                error(StatusCode::LENGTH_REQUIRED, "LengthRequired")
            }
            (&Method::POST, &["namedValues", id, "refreshSecret"]) => self.begin(id),
            (&Method::GET, &["namedValues", id]) => self.show(id),
            (&Method::GET, &["operationresults", number]) => self.operation(number),
            _ => error(StatusCode::NOT_FOUND, "InvalidResourceType"),
        }
    }

    fn begin(&self, id: &str) -> Answer {
        let Some(named_value) = self.named_values.lock().unwrap().get(id).cloned() else { return not_found() };
        if named_value.identifier.is_none() {
            return error(StatusCode::BAD_REQUEST, "ValidationError");
        }
        if named_value.manner == Manner::AtOnce {
            return self.finish(id);
        }
        let mut operations = self.operations.lock().unwrap();
        operations.push(id.to_owned());
        self.accepted(&named_value.manner, operations.len() - 1)
    }

    fn accepted(&self, manner: &Manner, number: usize) -> Answer {
        let mut accepted = answer(StatusCode::ACCEPTED, &Value::Null);
        let place = format!("{SERVICE}/operationresults/{number}?{VERSION}");
        let (header, place) = match manner {
            Manner::AsyncOperation | Manner::Failing => ("azure-asyncoperation", format!("{}{place}", self.url)),
            Manner::Elsewhere(origin) => ("location", format!("{origin}{place}")),
            Manner::Location | Manner::AtOnce => ("location", format!("{}{place}", self.url)),
        };
        accepted.headers_mut().insert(header, place.parse().unwrap());
        accepted.headers_mut().insert("retry-after", HeaderValue::from_static("0"));
        accepted
    }

    fn operation(&self, number: &str) -> Answer {
        let number: usize = number.parse().unwrap();
        let id = self.operations.lock().unwrap()[number].clone();
        let manner = self.named_values.lock().unwrap()[&id].manner.clone();
        let is_held = self.held.load(Ordering::SeqCst);
        let status = |status: &str| answer(StatusCode::OK, &json!({ "status": status }));
        match manner {
            Manner::AsyncOperation | Manner::Failing if is_held => status("InProgress"),
            _ if is_held => self.accepted(&manner, number),
            Manner::Failing => {
                let error = json!({ "code": "InternalServerError", "message": "The double was told to fail." });
                answer(StatusCode::OK, &json!({ "status": "Failed", "error": error }))
            }
            Manner::AsyncOperation => {
                self.finish(&id);
                status("Succeeded")
            }
            Manner::Location | Manner::AtOnce | Manner::Elsewhere(_) => self.finish(&id),
        }
    }

    /// Takes the newest version out of the vault.
    fn finish(&self, id: &str) -> Answer {
        if let Some(named_value) = self.named_values.lock().unwrap().get_mut(id)
            && named_value.status == "Success"
        {
            let name = named_value.identifier.as_deref().unwrap_or_default().split('/').nth(4).unwrap_or_default();
            named_value.value = self.vault.value(name);
        }
        self.show(id)
    }

    fn show(&self, id: &str) -> Answer {
        let named_values = self.named_values.lock().unwrap();
        let Some(NamedValue { identifier, status, .. }) = named_values.get(id) else { return not_found() };
        let vault = identifier.as_ref().map(|identifier| {
            json!({
                "secretIdentifier": identifier, "identityClientId": null,
                "lastStatus": { "code": status, "timeStampUtc": "2026-01-01T00:00:00Z" },
            })
        });
        let properties = json!({ "displayName": id, "secret": true, "tags": [], "keyVault": vault });
        let id = format!("{SERVICE}/namedValues/{id}");
        let r#type = "Microsoft.ApiManagement/service/namedValues";
        answer(StatusCode::OK, &json!({ "id": id, "type": r#type, "properties": properties }))
    }
}

fn not_found() -> Answer {
    error(StatusCode::NOT_FOUND, "ResourceNotFound")
}

fn error(status: StatusCode, code: &str) -> Answer {
    answer(status, &json!({ "error": { "code": code, "message": "What the double says.", "details": null } }))
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("refreshes", &self.refreshes).finish_non_exhaustive()
    }
}
