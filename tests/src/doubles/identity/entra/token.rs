//! The token endpoint: client credentials by assertion, and Entra's numbered refusals.

use bytes::Bytes;
use http::{Request, StatusCode};
use serde_json::{Value, json};

use super::{Entra, EntraService, TENANT};
use crate::doubles::http::{Answer, json as answer};
use crate::doubles::identity::keys::random_id;
use crate::doubles::identity::service::Fields;

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    /// OAuth's word for it.
    pub(super) error: &'static str,
    /// The number in `AADSTS…`.
    pub(super) code: u32,
    pub(super) said: String,
}

impl Refused {
    pub(super) fn request(error: &'static str, code: u32, said: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, code, said }
    }

    pub(super) fn client(code: u32, said: String) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, error: "invalid_client", code, said }
    }

    pub(super) fn unknown_tenant(tenant: &str) -> Self {
        let said = format!(
            "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the \
             correct cloud."
        );
        Self::request("invalid_request", 90_002, said)
    }

    pub(super) fn unknown_resource(resource: &str) -> Self {
        let said = format!("The resource principal named {resource} was not found in the tenant named {TENANT}.");
        Self::request("invalid_resource", 500_011, said)
    }
}

impl Entra {
    pub(super) async fn token(&self, request: &Request<Bytes>) -> Answer {
        let tenant = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
        match self.granted(tenant, &Fields::parse(request.body())).await {
            Ok(granted) => answer(StatusCode::OK, &granted),
            Err(refused) => self.refusal(&refused),
        }
    }

    async fn granted(&self, tenant: &str, form: &Fields) -> Result<Value, Refused> {
        if tenant != TENANT {
            return Err(Refused::unknown_tenant(tenant));
        }
        if field(form, "grant_type")? != "client_credentials" {
            let said = "The app requested an unsupported grant type.".to_owned();
            return Err(Refused::request("unsupported_grant_type", 70_003, said));
        }
        let client_id = field(form, "client_id")?;
        let resource = self.resource(field(form, "scope")?)?;
        let directory = self.directory.lock().unwrap().applications.clone();
        let application =
            directory.into_iter().find(|application| application.client_id == client_id).ok_or_else(|| {
                let said = format!(
                    "Application with identifier '{client_id}' was not found in the directory '{TENANT}'. This can \
                     happen if the application has not been installed by the administrator of the tenant."
                );
                Refused::request("unauthorized_client", 700_016, said)
            })?;
        let assertion = form.get("client_assertion").ok_or_else(|| {
            let said = "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.";
            Refused::client(7_000_218, said.to_owned())
        })?;
        if form.get("client_assertion_type") != Some(JWT_BEARER) {
            let said = "The 'client_assertion_type' parameter is not supported.".to_owned();
            return Err(Refused::request("invalid_request", 900_161, said));
        }
        self.judge(&application, assertion).await?;
        let more = json!({
            "appid": client_id, "appidacr": "2", "oid": application.object_id, "sub": application.object_id,
        });
        let token = self.access_token(EntraService::Token, &resource, more);
        Ok(json!({ "token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": token }))
    }

    fn resource(&self, scope: &str) -> Result<String, Refused> {
        let resource = scope.strip_suffix("/.default").ok_or_else(|| {
            let said = format!(
                "The provided value for scope {scope} is not valid. Client credential flows must have a scope value \
                 with /.default suffixed to the resource identifier (application ID URI)."
            );
            Refused::request("invalid_scope", 1_002_012, said)
        })?;
        if self.knows(resource) { Ok(resource.to_owned()) } else { Err(Refused::unknown_resource(resource)) }
    }

    pub(super) fn knows(&self, resource: &str) -> bool {
        self.directory.lock().unwrap().resources.contains(resource)
    }

    pub(super) fn access_token(&self, by: EntraService, resource: &str, more: Value) -> String {
        let mut claims = self.service(by).claims(&self.issuer(), resource, self.clock.now(), more);
        claims["tid"] = TENANT.into();
        claims["idtyp"] = "app".into();
        claims["ver"] = "1.0".into();
        self.keys.sign(&claims)
    }

    pub(super) fn refusal(&self, refused: &Refused) -> Answer {
        let (trace, correlation) = (random_id(), random_id());
        let now = self.clock.now().to_string();
        let time = format!("{}Z", now.split('.').next().unwrap_or_default().replace('T', " "));
        let said = format!(
            "AADSTS{}: {} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {time}",
            refused.code, refused.said
        );
        answer(
            refused.status,
            &json!({
                "error": refused.error, "error_description": said, "error_codes": [refused.code], "timestamp": time,
                "trace_id": trace, "correlation_id": correlation,
                "error_uri": format!("{}/error?code={}", self.url, refused.code),
            }),
        )
    }
}

fn field<'a>(form: &'a Fields, name: &str) -> Result<&'a str, Refused> {
    form.get(name).ok_or_else(|| {
        let said = format!("The request body must contain the following parameter: '{name}'.");
        Refused::request("invalid_request", 900_144, said)
    })
}
