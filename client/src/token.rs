use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::credentials::Stamp;

/// Where the bearer token comes from.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// A file that somebody keeps fresh, as Kubernetes does with projected tokens. Read again when it changed.
    File(PathBuf),
}

#[derive(Clone, Debug, Error)]
pub enum TokenError {
    #[error("cannot read the token file {0}; name one that this process may read")]
    Read(PathBuf, #[source] Arc<io::Error>),
    #[error("the token file {0} holds no token; it must hold one line, the token itself")]
    NoToken(PathBuf),
}

/// The token as it is now, ready to be sent.
pub(crate) struct Bearer {
    path: PathBuf,
    read: Mutex<Option<(Stamp, HeaderValue)>>,
}

impl Bearer {
    pub(crate) fn new(TokenSource::File(path): TokenSource) -> Self {
        Self { path, read: Mutex::new(None) }
    }

    /// The value of `authorization`. While the file cannot be used, the token last read from it is.
    pub(crate) async fn header(&self) -> Result<HeaderValue, TokenError> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.refreshed(read.as_ref()), &*read) {
            (Ok((stamp, header)), _) => {
                *read = Some((stamp, header.clone()));
                Ok(header)
            }
            (Err(_), Some((_, header))) => Ok(header.clone()),
            (Err(error), None) => Err(error),
        }
    }

    fn refreshed(&self, read: Option<&(Stamp, HeaderValue)>) -> Result<(Stamp, HeaderValue), TokenError> {
        let unreadable = |error| TokenError::Read(self.path.clone(), Arc::new(error));
        // Before the content: a change between the two is seen by the next call.
        let stamp = Stamp::of(&self.path).map_err(unreadable)?;
        match read {
            Some((known, header)) if *known == stamp => Ok((stamp, header.clone())),
            _ => Ok((stamp, self.parse(&Zeroizing::new(fs::read_to_string(&self.path).map_err(unreadable)?))?)),
        }
    }

    fn parse(&self, text: &str) -> Result<HeaderValue, TokenError> {
        let token = text.trim();
        let unusable = || TokenError::NoToken(self.path.clone());
        if token.is_empty() || token.contains(char::is_whitespace) {
            return Err(unusable());
        }
        let header = Zeroizing::new(format!("Bearer {token}"));
        let mut header = HeaderValue::try_from(header.as_str()).map_err(|_| unusable())?;
        header.set_sensitive(true);
        Ok(header)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bearer").field(&self.path()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(path: &Path) -> Bearer {
        Bearer::new(TokenSource::File(path.to_owned()))
    }

    #[tokio::test]
    async fn reads_the_token_again_when_its_file_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "first\n").unwrap();
        let bearer = bearer(&path);
        assert_eq!(bearer.header().await.unwrap(), "Bearer first");
        let next = directory.path().join("next");
        fs::write(&next, "other\n").unwrap();
        fs::rename(next, &path).unwrap();
        assert_eq!(bearer.header().await.unwrap(), "Bearer other");
    }

    #[tokio::test]
    async fn keeps_the_last_good_token_while_the_file_cannot_be_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        assert!(matches!(bearer(&path).header().await, Err(TokenError::Read(..))));
        fs::write(&path, "  \n").unwrap();
        assert!(matches!(bearer(&path).header().await, Err(TokenError::NoToken(_))));
        fs::write(&path, "good").unwrap();
        let bearer = bearer(&path);
        bearer.header().await.unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(bearer.header().await.unwrap(), "Bearer good");
        fs::remove_file(&path).unwrap();
        assert_eq!(bearer.header().await.unwrap(), "Bearer good");
    }

    #[tokio::test]
    async fn shows_the_token_to_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "hunter2").unwrap();
        let bearer = bearer(&path);
        let header = bearer.header().await.unwrap();
        assert!(!format!("{bearer:?} {header:?}").contains("hunter2"));
    }
}
