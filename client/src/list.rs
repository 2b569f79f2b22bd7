use std::collections::BTreeMap;
use std::time::SystemTime;

use keyferry_proto::v1::{self, ListSecretsRequest};

use crate::secret::time;
use crate::{Client, Error};

/// A secret without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretInfo {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub create_time: Option<SystemTime>,
    pub update_time: Option<SystemTime>,
    pub expire_time: Option<SystemTime>,
}

/// The secrets of a store, page by page; see [`Client::list_secrets`].
#[derive(Debug)]
pub struct SecretPages {
    client: Client,
    /// `None` once the last page was fetched.
    next: Option<ListSecretsRequest>,
}

impl SecretPages {
    pub(crate) fn new(client: Client, parent: String) -> Self {
        Self { client, next: Some(ListSecretsRequest { parent, ..ListSecretsRequest::default() }) }
    }

    /// The most secrets in a page, up to 1000.
    #[must_use]
    pub fn page_size(self, size: u16) -> Self {
        self.with(|request| request.page_size = size.into())
    }

    /// Only secrets whose id begins so.
    #[must_use]
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        self.with(|request| request.filter.get_or_insert_default().prefix = prefix.into())
    }

    /// Only secrets with this label; all that are given must hold.
    #[must_use]
    pub fn label(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(|request| {
            request.filter.get_or_insert_default().labels.insert(key.into(), value.into());
        })
    }

    /// The next page, which can be empty though others follow; `None` after the last one. After an error the same page is
    /// asked for again.
    pub async fn next(&mut self) -> Result<Option<Vec<SecretInfo>>, Error> {
        let Some(request) = self.next.as_mut() else { return Ok(None) };
        let page = self.client.call(request.clone()).await?;
        if page.next_page_token.is_empty() {
            self.next = None;
        } else {
            request.page_token = page.next_page_token;
        }
        Ok(Some(page.secrets.into_iter().map(SecretInfo::from).collect()))
    }

    fn with(mut self, change: impl FnOnce(&mut ListSecretsRequest)) -> Self {
        if let Some(request) = self.next.as_mut() {
            change(request);
        }
        self
    }
}

impl From<v1::Secret> for SecretInfo {
    fn from(secret: v1::Secret) -> Self {
        Self {
            name: secret.name,
            labels: secret.labels.into_iter().collect(),
            create_time: secret.create_time.and_then(time),
            update_time: secret.update_time.and_then(time),
            expire_time: secret.expire_time.and_then(time),
        }
    }
}
