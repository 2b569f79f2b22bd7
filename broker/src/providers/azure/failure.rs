//! What the vault's refusals mean, in the broker's words: none of the vault's own text passes.

use std::path::PathBuf;
use std::time::Duration;

use azure_core::error::ErrorKind;
use azure_core::http::RawResponse;
use azure_core::http::headers::RETRY_AFTER;
use thiserror::Error;

use super::answer::{Refusal, Unusable};
use super::wire::Trouble;
use crate::error::{Failure, Reason};
use crate::names::{SecretName, VersionId};

#[derive(Debug, Error)]
pub enum OpenError {
    #[error("the vault_url is not a URL with a host")]
    Url,
    #[error("the vault's CAs cannot be read from {}", path.display())]
    Ca {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the HTTPS client cannot be made; check that ca is a PEM file of certificates")]
    Client(#[source] reqwest::Error),
}

/// What a request was for.
#[derive(Clone, Copy)]
pub(super) enum About<'a> {
    Value(&'a SecretName, &'a VersionId),
    Secrets,
    Versions(&'a SecretName),
    Addition(&'a SecretName),
    Change(&'a SecretName, &'a str),
}

impl<'a> About<'a> {
    pub(super) fn secret(self) -> Option<&'a SecretName> {
        match self {
            Self::Value(secret, _) | Self::Versions(secret) | Self::Addition(secret) | Self::Change(secret, _) => {
                Some(secret)
            }
            Self::Secrets => None,
        }
    }
}

/// The words of one store.
pub(super) struct Words {
    pub(super) vault: String,
    pub(super) credential: String,
}

impl Words {
    /// `subject` is whom the vault takes the broker for.
    pub(super) fn failure(&self, about: About<'_>, subject: Option<&str>, error: azure_core::Error) -> Failure {
        if let ErrorKind::HttpResponse { status, raw_response, .. } = error.kind() {
            let refusal = raw_response.as_ref().map_or_else(Refusal::default, |raw| Refusal::read(raw.body()));
            let wait = raw_response.as_deref().and_then(retry_after);
            return self.refused(about, subject, u16::from(*status), &refusal, wait);
        }
        match error.into_downcast::<Trouble>() {
            Ok(trouble) => self.troubled(about, trouble),
            // The client's own complaint about a challenge or a page; it quotes what it complains about.
            Err(_) => self.garbage(Unusable),
        }
    }

    pub(super) fn garbage(&self, error: Unusable) -> Failure {
        let message = format!(
            "{} answers, but not as a key vault does; check vault_url and address, and what stands between",
            self.vault
        );
        Failure::new(Reason::ProviderUnavailable, message).caused_by(error)
    }

    /// An answer to an addition that cannot be read does not say that nothing was added.
    pub(super) fn unsure(&self, secret: &SecretName, error: Unusable) -> Failure {
        self.out(About::Addition(secret), "gave an answer that cannot be read").caused_by(error)
    }

    fn troubled(&self, about: About<'_>, trouble: Trouble) -> Failure {
        let what = match trouble {
            Trouble::Unreachable(_) => "cannot be reached; check the network to it, its name or address, and its CA",
            Trouble::Broken(_) => "broke its answer off",
            Trouble::TooLarge | Trouble::Elsewhere | Trouble::Challenge => {
                return self.garbage(Unusable).caused_by(trouble);
            }
            Trouble::NoToken | Trouble::Unexpected => {
                let message = "the key vault client behaved unexpectedly; report this";
                return Failure::new(Reason::Internal, message).caused_by(trouble);
            }
        };
        self.out(about, what).caused_by(trouble)
    }

    fn refused(
        &self,
        about: About<'_>,
        subject: Option<&str>,
        status: u16,
        refusal: &Refusal,
        wait: Option<Duration>,
    ) -> Failure {
        let waiting = |failure: Failure| match wait {
            Some(wait) => failure.retry_after(wait),
            None => failure,
        };
        match (status, about) {
            // Something in front of the vault, which says nothing of the secret.
            (403 | 404, _) if !refusal.is_told() => self.out(
                about,
                &format!("answered with HTTP status {status} and no key vault's error; check what stands between"),
            ),
            (400, About::Addition(_)) => {
                bad_payload("is refused by the key vault as it is; compare its limits on values and tags".to_owned())
            }
            (401, _) => {
                let Self { vault, credential } = self;
                let message = format!(
                    "{vault} refuses the token of credential {credential}; \
                     check that the credential belongs to the vault's own tenant"
                );
                Failure::new(Reason::ProviderCredential, message)
            }
            (403, _) => self.forbidden(about, subject, refusal),
            (404, About::Value(secret, VersionId::Latest) | About::Versions(secret) | About::Addition(secret)) => {
                no_secret(secret)
            }
            (404, About::Value(secret, version)) => no_version(secret, version),
            (404, About::Change(secret, version)) => no_version(secret, &VersionId::Exact(version.into())),
            (409, About::Addition(secret) | About::Change(secret, _)) => {
                let message = format!(
                    "{secret} is deleted and its name is kept, or it changes right now; \
                     recover or purge it in the vault, or try again"
                );
                Failure::new(Reason::Conflict, message)
            }
            (429, _) => {
                let message = format!("{} throttles its callers; wait, or lower the store's budget", self.vault);
                waiting(Failure::new(Reason::ProviderThrottled, message))
            }
            _ => waiting(self.out(about, &format!("answered with HTTP status {status}"))),
        }
    }

    fn forbidden(&self, about: About<'_>, subject: Option<&str>, refusal: &Refusal) -> Failure {
        if let About::Value(secret, version) = about {
            let version = version.as_str();
            let unusable = |what: &str| {
                Failure::new(
                    Reason::VersionDisabled,
                    format!("{secret}/versions/{version} {what}, or name another version"),
                )
            };
            if refusal.is("SecretDisabled") {
                return unusable("is disabled; enable it");
            }
            if refusal.is("SecretNotYetValid") {
                return unusable("is not valid yet; wait until its activation date");
            }
            if refusal.is("SecretExpired") {
                return unusable("has expired; change its expiration date in the vault");
            }
        }
        let vault = &self.vault;
        let whom = match subject {
            Some(subject) => subject.to_owned(),
            None => format!("the identity of credential {}", self.credential),
        };
        let (role, permissions) = match about {
            About::Value(..) | About::Secrets | About::Versions(_) => ("Key Vault Secrets User", "get and list"),
            About::Addition(_) | About::Change(..) => ("Key Vault Secrets Officer", "get, list and set"),
        };
        let message = if refusal.is("ForbiddenByFirewall") || refusal.is("ForbiddenByConnection") {
            format!(
                "the firewall of {vault} shuts the broker out; allow the broker's network, or give it a private endpoint"
            )
        } else if refusal.is("ForbiddenByPolicy") || refusal.is("AccessDenied") {
            format!("the access policies of {vault} deny the broker; grant {whom} the secret permissions {permissions}")
        } else {
            format!("{vault} denies the broker; grant {whom} the role \"{role}\" on the vault")
        };
        Failure::new(Reason::ProviderDenied, message)
    }

    /// A vault that does not do its work.
    fn out(&self, about: About<'_>, what: &str) -> Failure {
        let then = match about {
            About::Addition(secret) => {
                format!("; a version may have been added all the same: list the versions of {secret} first")
            }
            About::Value(..) | About::Secrets | About::Versions(_) | About::Change(..) => String::new(),
        };
        Failure::new(Reason::ProviderUnavailable, format!("{} {what}{then}", self.vault))
    }
}

pub(super) fn no_secret(secret: &SecretName) -> Failure {
    Failure::new(Reason::SecretNotFound, format!("{secret} does not exist"))
}

pub(super) fn no_version(secret: &SecretName, version: &VersionId) -> Failure {
    let message = format!("{secret} has no version {}; list its versions", version.as_str());
    Failure::new(Reason::VersionNotFound, message)
}

/// No version is ever called so, so none needs to be looked for.
pub(super) fn bad_version(secret: &SecretName, version: &str) -> Failure {
    let message = format!(
        "{secret} has no version {version}: a key vault's are latest, or 32 of the characters 0-9 and a-f; \
         list its versions"
    );
    Failure::new(Reason::VersionNotFound, message)
}

pub(super) fn bad_payload(description: String) -> Failure {
    Failure::bad_field(Reason::InvalidArgument, "payload", description)
}

/// Key Vault tells it in seconds.
fn retry_after(answer: &RawResponse) -> Option<Duration> {
    answer.headers().get_optional_str(&RETRY_AFTER)?.trim().parse().ok().map(Duration::from_secs)
}
