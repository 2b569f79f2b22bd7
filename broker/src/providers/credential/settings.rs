//! What `[credentials.NAME]` may say, with `from` followed to the entry that it names.

use std::path::PathBuf;

/// Admits to every API; what it opens is up to IAM.
pub const GOOGLE_CLOUD_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSettings {
    Google(GoogleIdentity),
    Azure(AzureIdentity),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    Google,
    Azure,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GoogleIdentity {
    Metadata {
        url: String,
    },
    /// An application-default or service-account file.
    File {
        path: PathBuf,
    },
    Federation(Box<GoogleFederation>),
}

/// A token of Azure's is exchanged at Google's STS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoogleFederation {
    pub from: AzureIdentity,
    /// What the subject token is asked for: the App ID URI of an Entra application.
    pub resource: String,
    /// `projects/…/providers/…`
    pub provider: String,
    /// Impersonated with the exchanged token, which is used itself without it.
    pub service_account: Option<String>,
    pub sts_url: String,
    pub iam_url: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AzureIdentity {
    Managed {
        host: ManagedIdentityHost,
        client_id: Option<String>,
    },
    /// A Kubernetes service account's token is the client's assertion.
    Workload {
        application: EntraApplication,
        token_file: PathBuf,
    },
    /// A Google-signed ID token is.
    Federation {
        application: EntraApplication,
        signer: IdTokenSigner,
        audience: String,
    },
}

/// Where a Google-signed ID token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdTokenSigner {
    Metadata {
        url: String,
    },
    /// Signs for this service account, which `from` may act as.
    Impersonation {
        from: Box<GoogleIdentity>,
        service_account: String,
        iam_url: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManagedIdentityHost {
    VirtualMachine {
        url: String,
    },
    /// Says in variables of the process where it is, anew at each start.
    AppService,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntraApplication {
    pub tenant: String,
    pub client_id: String,
    pub authority_url: String,
}

impl CredentialSettings {
    pub fn cloud(&self) -> Cloud {
        match self {
            Self::Google(_) => Cloud::Google,
            Self::Azure(_) => Cloud::Azure,
        }
    }
}
