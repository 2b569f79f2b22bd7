//! `[credentials.NAME]`: whom the broker is towards the clouds, with nothing secret in the file.

use std::collections::BTreeMap;

use super::kind::{FileUse, Kind, file, made_of, one_of, text};
use super::problem::Place;
use super::reader::Reader;
use super::section::Section;
use super::url::{metadata_url, service_url};
use crate::providers::credential::{
    AzureIdentity, Cloud, CredentialSettings, EntraApplication, GoogleFederation, GoogleIdentity, IdTokenSigner,
    ManagedIdentityHost,
};

const ABOUT: &str = "An identity of the broker's own, for `credential` in `[stores.NAME]` to name. None of them needs a \
                     stored secret but `google-file`, which is for development.";

#[derive(Clone, Copy, PartialEq, Eq)]
enum CredentialKind {
    GoogleMetadata,
    GoogleFile,
    GoogleFederation,
    AzureManaged,
    AzureWorkload,
    AzureFederation,
}

use CredentialKind::{
    AzureFederation, AzureManaged, AzureWorkload, GoogleFederation as Google, GoogleFile, GoogleMetadata,
};

const KINDS: [(&str, CredentialKind); 6] = [
    ("google-metadata", GoogleMetadata),
    ("google-file", GoogleFile),
    ("google-federation", Google),
    ("azure-managed-identity", AzureManaged),
    ("azure-workload-identity", AzureWorkload),
    ("azure-federation", AzureFederation),
];

/// The names that stores may use, each with its cloud where its kind could be read.
pub(super) type Names = BTreeMap<String, Option<Cloud>>;

/// As one table says it.
enum Declared {
    Whole(CredentialSettings),
    Federated(From, Federated),
    /// Its kind could not be read, which has been noted.
    Unreadable,
}

#[derive(Clone)]
enum Federated {
    Google { provider: String, resource: String, service_account: Option<String>, sts_url: String, iam_url: String },
    Azure { application: EntraApplication, audience: String, service_account: Option<String>, iam_url: String },
}

/// The name of another table, and where it stands.
struct From {
    name: String,
    key: String,
    place: Place,
}

pub(super) fn read(reader: &mut Reader<'_>, names: &mut Names) -> BTreeMap<String, CredentialSettings> {
    let declared = reader.named("credentials", ABOUT, credential, read_one);
    *names = declared.iter().map(|(name, entry)| (name.clone(), entry.cloud())).collect();
    let mut credentials = BTreeMap::new();
    for (name, entry) in &declared {
        let settings = match entry {
            Declared::Whole(settings) => Some(settings.clone()),
            Declared::Federated(from, federated) => follow(from, federated, &declared, reader),
            Declared::Unreadable => None,
        };
        credentials.extend(settings.map(|settings| (name.clone(), settings)));
    }
    credentials
}

impl Declared {
    fn cloud(&self) -> Option<Cloud> {
        match self {
            Self::Whole(settings) => Some(settings.cloud()),
            Self::Federated(_, Federated::Google { .. }) => Some(Cloud::Google),
            Self::Federated(_, Federated::Azure { .. }) => Some(Cloud::Azure),
            Self::Unreadable => None,
        }
    }
}

/// `None` where a problem has been noted.
fn follow(
    from: &From,
    federated: &Federated,
    declared: &BTreeMap<String, Declared>,
    reader: &mut Reader<'_>,
) -> Option<CredentialSettings> {
    let wanted = match federated {
        Federated::Google { .. } => "azure-managed-identity or azure-workload-identity",
        Federated::Azure { .. } => "google-metadata or google-file",
    };
    let mut refuse = |fault: String| {
        reader.refuse(from.place.clone(), format!("[{}] from: {fault}", from.key));
        None
    };
    let origin = match declared.get(&from.name) {
        // The reader has been told what is wrong there, or here.
        Some(Declared::Unreadable) => return None,
        None if from.name.is_empty() => return None,
        None => return refuse(format!("there is no [credentials.{}]; add it, of kind {wanted}", from.name)),
        Some(Declared::Federated(..)) => {
            return refuse(format!("\"{}\" is itself federated; name one of kind {wanted}", from.name));
        }
        Some(Declared::Whole(origin)) => origin.clone(),
    };
    match (federated.clone(), origin) {
        (
            Federated::Google { provider, resource, service_account, sts_url, iam_url },
            CredentialSettings::Azure(from),
        ) => {
            let federation = GoogleFederation { from, resource, provider, service_account, sts_url, iam_url };
            Some(CredentialSettings::Google(GoogleIdentity::Federation(Box::new(federation))))
        }
        (Federated::Azure { application, audience, service_account, iam_url }, CredentialSettings::Google(origin)) => {
            let signer = match (service_account, origin) {
                (Some(service_account), from) => {
                    IdTokenSigner::Impersonation { from: Box::new(from), service_account, iam_url }
                }
                (None, GoogleIdentity::Metadata { url }) => IdTokenSigner::Metadata { url },
                (None, GoogleIdentity::File { .. } | GoogleIdentity::Federation(_)) => {
                    return refuse(format!(
                        "\"{}\" cannot sign ID tokens itself; add service_account for it to act as",
                        from.name
                    ));
                }
            };
            Some(CredentialSettings::Azure(AzureIdentity::Federation { application, signer, audience }))
        }
        (Federated::Google { .. } | Federated::Azure { .. }, _) => {
            refuse(format!("\"{}\" is of the same cloud; name one of kind {wanted}", from.name))
        }
    }
}

fn read_one(s: &mut Section<'_, '_>) -> Declared {
    let kind = s.chosen("kind", &one_of(KINDS), "How its tokens are obtained; see the guides of the two clouds.");
    let is = |kinds: &[CredentialKind]| kind.map(|kind| kinds.contains(&kind));

    let server_url = s.variant("google-metadata", is(&[GoogleMetadata]), |s| {
        let meaning = "Where the metadata server is.";
        s.with_default("metadata_url", metadata_url(), "http://metadata.google.internal", meaning)
    });
    let path = s.variant("google-file", is(&[GoogleFile]), |s| {
        s.required(
            "file",
            file(FileUse::ReadPrivately),
            "An application-default or service-account file (JSON); nobody but the broker may read it.",
        )
    });
    let host = s.variant("azure-managed-identity", is(&[AzureManaged]), |s| {
        let hosts = one_of([("virtual-machine", false), ("app-service", true)]);
        let is_app = s.with_default(
            "host",
            hosts,
            "virtual-machine",
            "What the broker runs on; App Service, Functions and Container Apps say by variables where to ask.",
        );
        let meaning = "Where a virtual machine's metadata service is.";
        let url = s.with_default("identity_url", metadata_url(), "http://169.254.169.254", meaning);
        if is_app {
            if s.is_given("identity_url") {
                s.refuse("identity_url", "is for virtual machines, and an app's host tells its own; remove it");
            }
            ManagedIdentityHost::AppService
        } else {
            ManagedIdentityHost::VirtualMachine { url }
        }
    });
    let token_file = s.variant("azure-workload-identity", is(&[AzureWorkload]), |s| {
        let meaning = "The projected token of the pod's Kubernetes service account.";
        let default = "/var/run/secrets/azure/tokens/azure-identity-token";
        s.with_default("token_file", file(FileUse::Read), default, meaning)
    });
    let client_id = s.variant(
        "azure-managed-identity, azure-workload-identity or azure-federation",
        is(&[AzureManaged, AzureWorkload, AzureFederation]),
        |s| {
            let meaning = "Of the Entra application, or of a user-assigned identity; a managed identity that the system \
                           assigned has none.";
            s.optional("client_id", &entra_id(), meaning)
        },
    );
    if kind.is_some_and(|kind| [AzureWorkload, AzureFederation].contains(&kind)) && !s.is_given("client_id") {
        s.refuse_missing("client_id", "is missing; write the client id of the Entra application");
    }
    let application =
        s.variant("azure-workload-identity or azure-federation", is(&[AzureWorkload, AzureFederation]), |s| {
            EntraApplication {
                tenant: s.required("tenant", entra_id(), "The Entra tenant's id or domain."),
                client_id: client_id.clone().unwrap_or_default(),
                authority_url: s.with_default(
                    "authority_url",
                    service_url(),
                    "https://login.microsoftonline.com",
                    "Where Entra is; sovereign clouds have their own.",
                ),
            }
        });
    let (from, service_account, iam_url) =
        s.variant("google-federation or azure-federation", is(&[Google, AzureFederation]), |s| {
            let meaning = "The entry of `[credentials]` whose token the other cloud is shown: an Azure one for \
                           google-federation, a Google one for azure-federation.";
            let name = s.required("from", credential_name(), meaning);
            let from = From { name, key: s.title.clone(), place: s.place_of("from") };
            let meaning = "The Google service account to act as. Without it, google-federation is the federated \
                           principal itself, and azure-federation the metadata server's account.";
            let service_account = s.optional("service_account", &service_account(), meaning);
            let meaning = "Where Google's service account credentials API is.";
            let iam_url = s.with_default("iam_url", service_url(), "https://iamcredentials.googleapis.com", meaning);
            (from, service_account, iam_url)
        });
    let (provider, resource, sts_url) = s.variant("google-federation", is(&[Google]), |s| {
        let provider = s.required("provider", provider(), "The provider of the workload identity pool.");
        let meaning = "What Azure's token is asked for: the App ID URI of an Entra application, which the provider must \
                       allow as audience.";
        let resource = s.required("resource", uri(), meaning);
        let meaning = "Where Google's security token service is.";
        let sts_url = s.with_default("sts_url", service_url(), "https://sts.googleapis.com/v1/token", meaning);
        (provider, resource, sts_url)
    });
    let audience = s.variant("azure-federation", is(&[AzureFederation]), |s| {
        let meaning = "The audience of Google's ID token, as the application's federated credential has it.";
        s.with_default("audience", uri(), "api://AzureADTokenExchange", meaning)
    });

    match kind {
        None => Declared::Unreadable,
        Some(GoogleMetadata) => {
            Declared::Whole(CredentialSettings::Google(GoogleIdentity::Metadata { url: server_url }))
        }
        Some(GoogleFile) => Declared::Whole(CredentialSettings::Google(GoogleIdentity::File { path })),
        Some(AzureManaged) => Declared::Whole(CredentialSettings::Azure(AzureIdentity::Managed { host, client_id })),
        Some(AzureWorkload) => {
            Declared::Whole(CredentialSettings::Azure(AzureIdentity::Workload { application, token_file }))
        }
        Some(Google) => {
            Declared::Federated(from, Federated::Google { provider, resource, service_account, sts_url, iam_url })
        }
        Some(AzureFederation) => {
            Declared::Federated(from, Federated::Azure { application, audience, service_account, iam_url })
        }
    }
}

fn credential(name: &str) -> Result<String, String> {
    is_credential_name(name)?;
    Ok(name.to_owned())
}

pub(super) fn credential_name() -> Kind<String> {
    text("a name under [credentials]", "name", is_credential_name)
}

fn is_credential_name(name: &str) -> Result<(), String> {
    made_of(name, 63, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn entra_id() -> Kind<String> {
    text("an id such as \"72f988bf-86f1-41af-91ab-2d7cd011db47\", or of a tenant its domain", "Entra id", |id| {
        made_of(id, 128, |c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
    })
}

fn uri() -> Kind<String> {
    text("a URI such as \"api://keyferry\"", "URI", |uri| {
        made_of(uri, 512, |c| c.is_ascii_graphic() && !"\"<>\\^`{|}".contains(c))
    })
}

pub(super) fn service_account() -> Kind<String> {
    text("the e-mail of a Google service account", "e-mail", |email| {
        made_of(email, 256, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.@".contains(c))?;
        match email.split_once('@') {
            Some((name, domain)) if !name.is_empty() && domain.contains('.') && !domain.contains('@') => Ok(()),
            _ => Err("is no e-mail".to_owned()),
        }
    })
}

fn provider() -> Kind<String> {
    const FORM: &str = "projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER";
    text(FORM, "resource name", |name| {
        let is_id = |id: &str| made_of(id, 32, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-').is_ok();
        match name.split('/').collect::<Vec<_>>()[..] {
            ["projects", number, "locations", "global", "workloadIdentityPools", pool, "providers", provider] => {
                if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
                    Err("has the project by its id, and Google wants its number".to_owned())
                } else if is_id(pool) && is_id(provider) {
                    Ok(())
                } else {
                    Err("names a pool or a provider that Google would not accept".to_owned())
                }
            }
            _ => Err("is not the resource name of a pool's provider".to_owned()),
        }
    })
}
