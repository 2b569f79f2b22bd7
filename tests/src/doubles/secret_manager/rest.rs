//! The API as JSON over HTTP/1.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use prost_types::{FieldMask, Timestamp};
use serde_json::{Value, json};
use tonic::Code;

use super::Backend;
use super::messages::{
    AddSecretVersionRequest, Automatic, CreateSecretRequest, ListRequest, NamedRequest, Replication, Secret,
    SecretPayload, SecretVersion, UpdateSecretRequest,
};
use super::method::Method;
use super::refusal::Refusal;
use crate::doubles::faults::Fault;
use crate::doubles::http::{self as wire, Handler};

pub(super) fn handler(backend: Arc<Backend>) -> Handler {
    Arc::new(move |request| {
        let backend = Arc::clone(&backend);
        Box::pin(async move {
            match answer(&backend, &request) {
                Ok((body, fault)) => wire::spoil(wire::json(StatusCode::OK, &body), fault).await,
                Err(refusal) => refusal.answer(),
            }
        })
    })
}

fn answer(backend: &Backend, request: &Request<Bytes>) -> Result<(Value, Option<Fault>), Refusal> {
    let asked = Asked::read(request)?;
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
    let fault = backend.admit(asked.method, token, &asked.name)?;
    if asked.method == Method::AddSecretVersion
        && let Some(late) = &mut *backend.late.lock().unwrap()
    {
        late.push(asked);
        return Err(Refusal::of(Fault::Status(503)).unwrap());
    }
    Ok((asked.run(backend, fault)?, fault))
}

/// One request, taken apart.
pub(super) struct Asked {
    method: Method,
    /// Of the resource, or of the parent whose children are asked for.
    name: String,
    query: HashMap<String, String>,
    body: Value,
}

impl Asked {
    fn read(request: &Request<Bytes>) -> Result<Self, Refusal> {
        let path = percent_decoded(request.uri().path())?;
        let unknown = || Refusal::new(Code::NotFound, format!("The requested URL {path} was not found."));
        let resource = path.strip_prefix("/v1/").ok_or_else(unknown)?;
        let (resource, verb) = match resource.rsplit_once(':') {
            Some((resource, verb)) => (resource, verb),
            None => (resource, ""),
        };
        let (collection, name) = match resource.rsplit_once('/') {
            Some((parent, "secrets")) => ("secrets", parent),
            Some((parent, "versions")) => ("versions", parent),
            _ if resource.contains("/versions/") => ("version", resource),
            _ => ("secret", resource),
        };
        let method = match (request.method().as_str(), collection, verb) {
            ("GET", "secrets", "") => Method::ListSecrets,
            ("POST", "secrets", "") => Method::CreateSecret,
            ("GET", "secret", "") => Method::GetSecret,
            ("PATCH", "secret", "") => Method::UpdateSecret,
            ("DELETE", "secret", "") => Method::DeleteSecret,
            ("POST", "secret", "addVersion") => Method::AddSecretVersion,
            ("GET", "versions", "") => Method::ListSecretVersions,
            ("GET", "version", "") => Method::GetSecretVersion,
            ("GET", "version", "access") => Method::AccessSecretVersion,
            ("POST", "version", "enable") => Method::EnableSecretVersion,
            ("POST", "version", "disable") => Method::DisableSecretVersion,
            ("POST", "version", "destroy") => Method::DestroySecretVersion,
            _ => return Err(unknown()),
        };
        let body = match request.body() {
            empty if empty.is_empty() => Value::Null,
            body => serde_json::from_slice(body).map_err(|_| invalid("Invalid JSON payload received."))?,
        };
        Ok(Self { method, name: name.to_owned(), query: query(request.uri().query().unwrap_or_default())?, body })
    }

    pub(super) fn run(self, backend: &Backend, fault: Option<Fault>) -> Result<Value, Refusal> {
        let numbered = self.query.get("$alt").is_some_and(|alt| alt.contains("enum-encoding=int"));
        let mut vault = backend.vault.lock().unwrap();
        Ok(match self.method {
            Method::ListSecrets => {
                let listed = vault.list_secrets(&self.list()?)?;
                let secrets: Vec<Value> = listed.secrets.iter().map(secret_json).collect();
                json!({ "secrets": secrets, "nextPageToken": listed.next_page_token, "totalSize": listed.total_size })
            }
            Method::CreateSecret => {
                let secret_id = self.text("secretId");
                let secret = Some(secret(&self.body)?);
                secret_json(&vault.create_secret(&CreateSecretRequest { parent: self.name, secret_id, secret })?)
            }
            Method::GetSecret => secret_json(&vault.get_secret(&self.named())?),
            Method::UpdateSecret => {
                let paths = self.text("updateMask").split(',').map(str::to_owned).collect();
                let secret = Some(Secret { name: self.name.clone(), ..secret(&self.body)? });
                let update_mask = Some(FieldMask { paths });
                secret_json(&vault.update_secret(&UpdateSecretRequest { secret, update_mask })?)
            }
            Method::DeleteSecret => {
                vault.delete_secret(&self.named())?;
                json!({})
            }
            Method::AddSecretVersion => {
                let payload = Some(payload(&self.body["payload"])?);
                let added = vault.add_version(&AddSecretVersionRequest { parent: self.name, payload })?;
                version_json(&added, numbered)
            }
            Method::GetSecretVersion => version_json(&vault.get_version(&self.named())?, numbered),
            Method::AccessSecretVersion => {
                let accessed = vault.access_version(&self.named())?;
                let payload = accessed.payload.unwrap_or_default();
                let checksum = payload.data_crc32c.unwrap() ^ i64::from(fault == Some(Fault::WrongCrc));
                let data = STANDARD.encode(&payload.data);
                json!({ "name": accessed.name, "payload": { "data": data, "dataCrc32c": checksum.to_string() } })
            }
            Method::ListSecretVersions => {
                let listed = vault.list_versions(&self.list()?)?;
                let versions: Vec<Value> = listed.versions.iter().map(|v| version_json(v, numbered)).collect();
                json!({ "versions": versions, "nextPageToken": listed.next_page_token, "totalSize": listed.total_size })
            }
            Method::EnableSecretVersion => version_json(&vault.enable_version(&self.named())?, numbered),
            Method::DisableSecretVersion => version_json(&vault.disable_version(&self.named())?, numbered),
            Method::DestroySecretVersion => version_json(&vault.destroy_version(&self.named())?, numbered),
        })
    }

    /// A deletion has its etag in the query, other changes in the body.
    fn named(&self) -> NamedRequest {
        let etag = self.body["etag"].as_str().map_or_else(|| self.text("etag"), str::to_owned);
        NamedRequest { name: self.name.clone(), etag }
    }

    fn list(&self) -> Result<ListRequest, Refusal> {
        let page_size = match self.text("pageSize").as_str() {
            "" => 0,
            size => size.parse().map_err(|_| invalid("Invalid value at 'page_size' (TYPE_INT32)."))?,
        };
        Ok(ListRequest { parent: self.name.clone(), page_size, page_token: self.text("pageToken") })
    }

    fn text(&self, parameter: &str) -> String {
        self.query.get(parameter).cloned().unwrap_or_default()
    }
}

fn secret(body: &Value) -> Result<Secret, Refusal> {
    let mut labels = BTreeMap::new();
    for (key, value) in body["labels"].as_object().into_iter().flatten() {
        let value = value.as_str().ok_or_else(|| invalid("Invalid value at 'secret.labels' (TYPE_STRING)."))?;
        labels.insert(key.clone(), value.to_owned());
    }
    let replication = body
        .get("replication")
        .map(|replication| Replication { automatic: replication.get("automatic").map(|_| Automatic {}) });
    let etag = body["etag"].as_str().unwrap_or_default().to_owned();
    Ok(Secret { replication, labels, etag, ..Secret::default() })
}

fn payload(body: &Value) -> Result<SecretPayload, Refusal> {
    let data = STANDARD
        .decode(body["data"].as_str().unwrap_or_default())
        .map_err(|_| invalid("Invalid value at 'payload.data' (TYPE_BYTES)."))?;
    // int64 travels as text, and is taken as a number too.
    let checksum = body.get("dataCrc32c").map(|given| given.as_i64().or_else(|| given.as_str()?.parse().ok()));
    let data_crc32c = match checksum {
        Some(None) => return Err(invalid("Invalid value at 'payload.data_crc32c' (TYPE_INT64).")),
        Some(given) => given,
        None => None,
    };
    Ok(SecretPayload { data, data_crc32c })
}

fn secret_json(secret: &Secret) -> Value {
    let mut json = json!({
        "name": secret.name,
        "createTime": secret.create_time.as_ref().map(Timestamp::to_string),
        "labels": secret.labels,
        "etag": secret.etag,
    });
    if secret.replication.is_some() {
        json["replication"] = json!({ "automatic": {} });
    }
    json
}

fn version_json(version: &SecretVersion, numbered: bool) -> Value {
    let mut json = json!({
        "name": version.name,
        "createTime": version.create_time.as_ref().map(Timestamp::to_string),
        "state": if numbered { json!(version.state) } else { json!(version.state().name()) },
        "replicationStatus": { "automatic": {} },
        "etag": version.etag,
        "clientSpecifiedPayloadChecksum": version.client_specified_payload_checksum,
    });
    if let Some(time) = &version.destroy_time {
        json["destroyTime"] = json!(time.to_string());
    }
    json
}

fn query(text: &str) -> Result<HashMap<String, String>, Refusal> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((percent_decoded(key)?, percent_decoded(&value.replace('+', " "))?))
        })
        .collect()
}

fn percent_decoded(text: &str) -> Result<String, Refusal> {
    let bad = || invalid("The URL is not well-formed.");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next().ok_or_else(bad)?, rest.next().ok_or_else(bad)?];
                let digits = std::str::from_utf8(&digits).map_err(|_| bad())?.to_owned();
                u8::from_str_radix(&digits, 16).map_err(|_| bad())?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

fn invalid(message: &str) -> Refusal {
    Refusal::new(Code::InvalidArgument, message)
}
