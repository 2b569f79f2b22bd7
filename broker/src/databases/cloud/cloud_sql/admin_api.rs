//! The two requests of the Cloud SQL Admin API that a login needs.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::databases::cloud::settings::InstanceName;
use crate::error::{Failure, Reason};
use crate::providers::credential::api_error::ApiError;
use crate::providers::credential::wire::{self, Answer, Http};
use crate::providers::credential::{Broken, Token};

const LINK: &str = "sqladmin";

#[derive(Debug)]
pub(super) struct AdminApi {
    http: Http,
    url: String,
    instance: InstanceName,
    /// Who asks.
    account: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConnectSettings {
    pub(super) region: String,
    server_ca_cert: Option<Pem>,
    #[serde(default)]
    server_ca_mode: String,
    #[serde(default)]
    ip_addresses: Vec<Address>,
    #[serde(default)]
    dns_name: String,
    #[serde(default)]
    dns_names: Vec<DnsName>,
}

#[derive(Deserialize)]
struct Pem {
    cert: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Address {
    r#type: String,
    ip_address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DnsName {
    name: String,
    connection_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signed {
    ephemeral_cert: Pem,
}

impl AdminApi {
    pub(super) fn new(url: &str, instance: InstanceName, account: String) -> Result<Self, Broken> {
        Ok(Self { http: Http::new()?, url: url.trim_end_matches('/').to_owned(), instance, account })
    }

    pub(super) async fn connect_settings(&self, token: &Token) -> Result<ConnectSettings, Failure> {
        let request = self.http.get(LINK, &format!("{}/connectSettings", self.resource()), &[]);
        let settings: ConnectSettings = self.send(request, token).await?;
        if settings.server_ca_cert.is_none() {
            return Err(self.garbled());
        }
        Ok(settings)
    }

    /// In PEM.
    pub(super) async fn certificate(
        &self,
        token: &Token,
        public: &str,
        login: &Token,
        life: Duration,
    ) -> Result<String, Failure> {
        let url = format!("{}:generateEphemeralCert", self.resource());
        let life = format!("{}s", life.as_secs());
        let body = json!({ "public_key": public, "access_token": login.value(), "validDuration": life });
        let request = self.http.post_json(LINK, &url, &body);
        let signed: Signed = self.send(request, token).await?;
        Ok(signed.ephemeral_cert.cert)
    }

    fn resource(&self) -> String {
        let InstanceName { project, name, .. } = &self.instance;
        format!("{}/sql/v1beta4/projects/{project}/instances/{name}", self.url)
    }

    async fn send<T: DeserializeOwned>(
        &self,
        request: Result<reqwest::RequestBuilder, Broken>,
        token: &Token,
    ) -> Result<T, Failure> {
        let broken = |broken: Broken| {
            broken.failure(&format!("the way to the instance {}", self.instance), Reason::ProviderDenied)
        };
        let answer = wire::send(LINK, request.map_err(broken)?.bearer_auth(token.value())).await.map_err(broken)?;
        answer.check_passing(LINK).map_err(broken)?;
        if answer.status != StatusCode::OK {
            return Err(self.refusal(&answer));
        }
        serde_json::from_slice(&answer.body).map_err(|_| self.garbled())
    }

    fn refusal(&self, answer: &Answer) -> Failure {
        let Self { instance, account, .. } = self;
        let error = ApiError::read(&answer.body);
        let project = &instance.project;
        let (reason, message) = match (answer.status.as_u16(), error.reason.as_str()) {
            (401, _) => (
                Reason::ProviderCredential,
                format!("the Cloud SQL Admin API refuses the token of {account} though it should live; try again"),
            ),
            (_, "SERVICE_DISABLED" | "accessNotConfigured") => (
                Reason::ProviderDenied,
                format!(
                    "the Cloud SQL Admin API is off in the project {project}; enable sqladmin.googleapis.com there"
                ),
            ),
            (403, _) => (
                Reason::ProviderDenied,
                format!(
                    "Google denies {account} the instance {instance}, or there is none; grant it roles/cloudsql.client \
                     and roles/cloudsql.instanceUser on the project {project}, or correct instance"
                ),
            ),
            (404, _) => (
                Reason::ProviderDenied,
                format!("there is no instance {instance}; correct instance, PROJECT:REGION:INSTANCE"),
            ),
            (400 | 409 | 412, _) => (
                Reason::ProviderDenied,
                format!(
                    "Cloud SQL refuses {account} at {instance}: the instance must be running, have \
                     cloudsql.iam_authentication on, and know the account as an IAM user; and a key of the caller's \
                     own must be RSA"
                ),
            ),
            (status, _) => (
                Reason::ProviderUnavailable,
                format!("{} answers {status} and not as the Cloud SQL Admin API does; correct admin_url", self.url),
            ),
        };
        Failure::new(reason, message).caused_by(format!("the Admin API answered {}", answer.status.as_u16()))
    }

    fn garbled(&self) -> Failure {
        let message = format!(
            "{} answers for {} with something that is not the Cloud SQL Admin API's; correct admin_url",
            self.url, self.instance
        );
        Failure::new(Reason::ProviderUnavailable, message)
    }
}

impl ConnectSettings {
    pub(super) fn address(&self, r#type: &str) -> Option<&str> {
        self.ip_addresses.iter().find(|address| address.r#type == r#type).map(|address| address.ip_address.as_str())
    }

    /// For Private Service Connect; DNS names may be written with their final dot.
    pub(super) fn private_name(&self) -> Option<&str> {
        let listed = self.dns_names.iter().find(|name| name.connection_type == "PRIVATE_SERVICE_CONNECT");
        let name = listed.map_or(self.dns_name.as_str(), |listed| listed.name.as_str());
        Some(name.trim_end_matches('.')).filter(|name| !name.is_empty())
    }

    /// Only CAs that several instances share put a host's name into their certificates.
    pub(super) fn server_name(&self) -> &str {
        let shared = ["GOOGLE_MANAGED_CAS_CA", "CUSTOMER_MANAGED_CAS_CA"].contains(&self.server_ca_mode.as_str());
        if shared { self.dns_name.trim_end_matches('.') } else { "" }
    }

    pub(super) fn ca(&self) -> &str {
        self.server_ca_cert.as_ref().map_or("", |ca| ca.cert.as_str())
    }
}
