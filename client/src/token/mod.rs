mod azure;
mod command;
mod file;
mod google;
mod kept;
mod wire;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderValue;
use thiserror::Error;
use tokio::time::Instant;
use zeroize::Zeroizing;

pub use self::azure::AzureIdentity;
use self::file::TokenFile;
use self::kept::Kept;

/// Where the bearer token comes from. Whatever it is, the token is renewed before it ends, and stays in use until its end
/// while it cannot be renewed.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// A file that somebody keeps fresh, as Kubernetes does with projected tokens. Read again when it changed.
    File(PathBuf),
    /// A program with its arguments that prints a token. No shell is between.
    Command(Vec<String>),
    /// The ID token of the service account that this runs as on Google Cloud, from the metadata server there.
    Google { audience: String, metadata: String },
    /// A token of the identity that this runs as on Azure.
    Azure { resource: String, identity: AzureIdentity },
}

/// Why there is no token. What a source said is not quoted: a token may be in it.
#[derive(Clone, Debug, Error)]
pub enum TokenError {
    #[error("cannot read the token file {0}; name one that this process may read")]
    Read(PathBuf, #[source] Arc<io::Error>),
    #[error("the token file {0} holds no token; it must hold one line, the token itself")]
    NoToken(PathBuf),
    #[error("no token from {place}: {problem}")]
    Source { place: String, problem: String },
}

/// The token as it is now, ready to be sent.
pub(crate) enum Bearer {
    File(TokenFile),
    Kept(Kept),
}

impl TokenSource {
    /// For `audience`, which is the one that the broker expects. `GCE_METADATA_HOST` moves the metadata server.
    pub fn google(audience: impl Into<String>) -> Self {
        Self::Google { audience: audience.into(), metadata: google::metadata() }
    }

    /// For `resource`, the application's ID URI. The identity is the one that the environment tells of: a federated
    /// token's (`AZURE_FEDERATED_TOKEN_FILE`), an app's (`IDENTITY_ENDPOINT`), or else the virtual machine's.
    pub fn azure(resource: impl Into<String>) -> Self {
        Self::Azure { resource: resource.into(), identity: AzureIdentity::of_environment() }
    }
}

impl Bearer {
    /// What is fetched is fetched from now on, by a task that ends with this.
    pub(crate) fn new(source: TokenSource) -> Result<Self, TokenError> {
        Ok(match source {
            TokenSource::File(path) => Self::File(TokenFile::new(path)),
            TokenSource::Command(words) => {
                let command = Arc::new(command::TokenCommand::new(words)?);
                Self::Kept(Kept::start(command.place(), move || Arc::clone(&command).run()))
            }
            TokenSource::Google { audience, metadata } => {
                let server = Arc::new(google::MetadataServer::new(audience, metadata)?);
                Self::Kept(Kept::start(server.place(), move || Arc::clone(&server).fetch()))
            }
            TokenSource::Azure { resource, identity } => {
                let endpoint = Arc::new(azure::Endpoint::new(resource, identity)?);
                Self::Kept(Kept::start(endpoint.place(), move || Arc::clone(&endpoint).fetch()))
            }
        })
    }

    /// The value of `authorization`.
    pub(crate) async fn header(&self) -> Result<HeaderValue, TokenError> {
        match self {
            Self::File(file) => file.header(),
            Self::Kept(kept) => kept.header().await,
        }
    }

    /// Whether there is another token than what a call of that time was sent with, which the broker says has ended.
    pub(crate) async fn renew(&self, called: Instant) -> bool {
        match self {
            Self::File(file) => file.is_newer(called),
            Self::Kept(kept) => kept.renew(called).await,
        }
    }
}

/// `None` where the text is not one word that can be sent.
fn bearer(text: &str) -> Option<HeaderValue> {
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return None;
    }
    let header = Zeroizing::new(format!("Bearer {token}"));
    let mut header = HeaderValue::try_from(header.as_str()).ok()?;
    header.set_sensitive(true);
    Some(header)
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => file.fmt(f),
            Self::Kept(kept) => kept.fmt(f),
        }
    }
}
