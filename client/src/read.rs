use std::time::Duration;

use keyferry_proto::v1::GetSecretRequest;

/// What to read, and how old it may be. A name alone does for most: `client.get_secret("stores/main/secrets/db")`.
#[derive(Clone, Debug)]
pub struct Read(pub(crate) GetSecretRequest);

impl Read {
    /// `stores/{store}/secrets/{secret}` for the latest version, or with `/versions/{version}` for that one.
    pub fn of(name: impl Into<String>) -> Self {
        Self(GetSecretRequest { name: name.into(), ..GetSecretRequest::default() })
    }

    /// The oldest load to accept from the broker's cache; zero asks the provider.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        // Beyond some 292 billion years any age will do.
        self.0.max_age = age.try_into().ok();
        self
    }

    /// Nothing loaded before this revision of the epoch's rotation log: what a change answered, or an event told.
    #[must_use]
    pub fn min_revision(mut self, revision: i64, epoch: impl Into<String>) -> Self {
        self.0.min_revision = revision;
        self.0.epoch = epoch.into();
        self
    }
}

impl From<&str> for Read {
    fn from(name: &str) -> Self {
        Self::of(name)
    }
}

impl From<String> for Read {
    fn from(name: String) -> Self {
        Self::of(name)
    }
}
