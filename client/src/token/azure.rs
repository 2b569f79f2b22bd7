use std::env;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use reqwest::{Client, RequestBuilder};
use zeroize::Zeroizing;

use super::{TokenError, wire};

/// As whom a token is asked for on Azure.
#[derive(Clone)]
pub enum AzureIdentity {
    /// The managed identity of a virtual machine; `client_id` picks one of several.
    VirtualMachine { endpoint: String, client_id: Option<String> },
    /// The managed identity of an app or container.
    AppService { endpoint: String, header: Zeroizing<String>, client_id: Option<String> },
    /// The application that trusts the token in the file, as Azure's workload identity on Kubernetes sets up.
    Workload { authority: String, tenant: String, client_id: String, token_file: PathBuf },
}

pub(super) struct Endpoint {
    http: Client,
    resource: String,
    identity: AzureIdentity,
}

impl AzureIdentity {
    pub(super) fn of_environment() -> Self {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let client_id = variable("AZURE_CLIENT_ID");
        if let (Some(token_file), Some(tenant), Some(client_id)) =
            (variable("AZURE_FEDERATED_TOKEN_FILE"), variable("AZURE_TENANT_ID"), client_id.clone())
        {
            let authority = variable("AZURE_AUTHORITY_HOST");
            let authority = authority.unwrap_or_else(|| "https://login.microsoftonline.com".to_owned());
            return Self::Workload { authority, tenant, client_id, token_file: token_file.into() };
        }
        match (variable("IDENTITY_ENDPOINT"), variable("IDENTITY_HEADER")) {
            (Some(endpoint), Some(header)) => Self::AppService { endpoint, header: Zeroizing::new(header), client_id },
            _ => Self::VirtualMachine { endpoint: "http://169.254.169.254".to_owned(), client_id },
        }
    }

    fn place(&self) -> String {
        match self {
            Self::VirtualMachine { endpoint, .. } => format!("Azure's metadata service at {endpoint}"),
            Self::AppService { endpoint, .. } => format!("the app's identity endpoint {endpoint}"),
            Self::Workload { authority, tenant, .. } => format!("Entra's tenant {tenant} at {authority}"),
        }
    }
}

impl Endpoint {
    pub(super) fn new(resource: String, identity: AzureIdentity) -> Result<Self, TokenError> {
        let http = wire::client().map_err(|problem| TokenError::Source { place: identity.place(), problem })?;
        Ok(Self { http, resource, identity })
    }

    pub(super) fn place(&self) -> String {
        self.identity.place()
    }

    pub(super) async fn fetch(self: Arc<Self>) -> Result<Zeroizing<String>, TokenError> {
        let sent = async { wire::send(self.request().await?).await?.access_token() };
        sent.await.map_err(|problem| TokenError::Source { place: self.place(), problem })
    }

    async fn request(&self) -> Result<RequestBuilder, String> {
        match &self.identity {
            AzureIdentity::VirtualMachine { endpoint, client_id } => {
                let url = format!("{}/metadata/identity/oauth2/token", endpoint.trim_end_matches('/'));
                Ok(self.ask(&url, "2018-02-01", client_id.as_deref()).header("metadata", "true"))
            }
            AzureIdentity::AppService { endpoint, header, client_id } => {
                let request = self.ask(endpoint, "2019-08-01", client_id.as_deref());
                Ok(request.header("x-identity-header", header.as_str()))
            }
            AzureIdentity::Workload { authority, tenant, client_id, token_file } => {
                let read = tokio::fs::read_to_string(token_file).await.map(Zeroizing::new);
                let assertion = read.map_err(|error| {
                    format!("cannot read the federated token {} ({})", token_file.display(), error.kind())
                })?;
                let url = format!("{}/{tenant}/oauth2/v2.0/token", authority.trim_end_matches('/'));
                let form = Zeroizing::new(
                    form_urlencoded::Serializer::new(String::new())
                        .append_pair("grant_type", "client_credentials")
                        .append_pair("client_id", client_id)
                        .append_pair("scope", &format!("{}/.default", self.resource))
                        .append_pair("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
                        .append_pair("client_assertion", assertion.trim())
                        .finish(),
                );
                let request = self.http.post(url).header("content-type", "application/x-www-form-urlencoded");
                Ok(request.body(form.as_bytes().to_vec()))
            }
        }
    }

    fn ask(&self, url: &str, version: &str, client_id: Option<&str>) -> RequestBuilder {
        let request = self.http.get(url).query(&[("api-version", version), ("resource", &*self.resource)]);
        match client_id {
            Some(id) => request.query(&[("client_id", id)]),
            None => request,
        }
    }
}

/// The header of an app's endpoint is a secret of sorts.
impl fmt::Debug for AzureIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AzureIdentity").field(&self.place()).finish()
    }
}
