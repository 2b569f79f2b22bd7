//! From settings to a chain of links.

use std::sync::Arc;

use super::impersonation::Impersonation;
use super::key_file::KeyFile;
use super::managed_identity::{Host, ManagedIdentity};
use super::metadata::MetadataServer;
use super::settings::{AzureIdentity, CredentialSettings, GoogleIdentity, IdTokenSigner, ManagedIdentityHost};
use super::sts::Federation;
use super::wire::Http;
use super::workload_identity::{Assertion, FederatedClient};
use super::{Broken, TokenSource};
use crate::clock::SharedClock;

type Built = Result<Arc<dyn TokenSource>, Broken>;

pub(super) fn build(settings: &CredentialSettings, clock: &SharedClock) -> Built {
    let builder = Builder { http: Http::new()?, clock };
    match settings {
        CredentialSettings::Google(identity) => builder.google(identity),
        CredentialSettings::Azure(identity) => builder.azure(identity),
    }
}

struct Builder<'a> {
    http: Http,
    clock: &'a SharedClock,
}

impl Builder<'_> {
    fn google(&self, identity: &GoogleIdentity) -> Built {
        Ok(match identity {
            GoogleIdentity::Metadata { url } => Arc::new(self.metadata(url)),
            GoogleIdentity::File { path } => {
                Arc::new(KeyFile { http: self.http.clone(), path: path.clone(), clock: Arc::clone(self.clock) })
            }
            GoogleIdentity::Federation(federation) => {
                let account = federation.service_account.as_deref();
                Arc::new(Federation {
                    http: self.http.clone(),
                    subject: self.azure(&federation.from)?,
                    subject_scope: format!("{}/.default", federation.resource),
                    provider: federation.provider.clone(),
                    url: federation.sts_url.clone(),
                    impersonation: account.map(|account| self.impersonation(&federation.iam_url, account)),
                    clock: Arc::clone(self.clock),
                })
            }
        })
    }

    fn azure(&self, identity: &AzureIdentity) -> Built {
        let (application, assertion) = match identity {
            AzureIdentity::Managed { host, client_id } => {
                let host = match host {
                    ManagedIdentityHost::VirtualMachine { url } => Host::VirtualMachine { url: url.clone() },
                    ManagedIdentityHost::AppService => Host::app_service()?,
                };
                let (http, client_id) = (self.http.clone(), client_id.clone());
                return Ok(Arc::new(ManagedIdentity { http, host, client_id, clock: Arc::clone(self.clock) }));
            }
            AzureIdentity::Workload { application, token_file } => (application, Assertion::File(token_file.clone())),
            AzureIdentity::Federation { application, signer, audience } => {
                let audience = audience.clone();
                let assertion = match signer {
                    IdTokenSigner::Metadata { url } => Assertion::Metadata { server: self.metadata(url), audience },
                    IdTokenSigner::Impersonation { from, service_account, iam_url } => Assertion::Impersonated {
                        source: self.google(from)?,
                        impersonation: self.impersonation(iam_url, service_account),
                        audience,
                    },
                };
                (application, assertion)
            }
        };
        let (http, application) = (self.http.clone(), application.clone());
        Ok(Arc::new(FederatedClient { http, application, assertion, clock: Arc::clone(self.clock) }))
    }

    fn metadata(&self, url: &str) -> MetadataServer {
        MetadataServer { http: self.http.clone(), url: url.to_owned(), clock: Arc::clone(self.clock) }
    }

    fn impersonation(&self, url: &str, service_account: &str) -> Impersonation {
        Impersonation { http: self.http.clone(), url: url.to_owned(), service_account: service_account.to_owned() }
    }
}
