use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{TokenError, bearer};
use crate::credentials::Stamp;

/// A file that somebody keeps fresh.
pub(crate) struct TokenFile {
    path: PathBuf,
    read: Mutex<Option<Read>>,
}

#[derive(Clone)]
struct Read {
    stamp: Stamp,
    header: HeaderValue,
    at: Instant,
}

impl TokenFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, read: Mutex::new(None) }
    }

    /// While the file cannot be used, the token last read from it is.
    pub(super) fn header(&self) -> Result<HeaderValue, TokenError> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.refreshed(read.as_ref()), &*read) {
            (Ok(fresh), _) => Ok(read.insert(fresh).header.clone()),
            (Err(_), Some(last)) => Ok(last.header.clone()),
            (Err(error), None) => Err(error),
        }
    }

    /// Whether it was read, or can be, since then.
    pub(super) fn is_newer(&self, than: Instant) -> bool {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        self.refreshed(read.as_ref()).is_ok_and(|fresh| read.insert(fresh).at >= than)
    }

    fn refreshed(&self, read: Option<&Read>) -> Result<Read, TokenError> {
        let unreadable = |error| TokenError::Read(self.path.clone(), Arc::new(error));
        // Before the content: a change between the two is seen by the next call.
        let stamp = Stamp::of(&self.path).map_err(unreadable)?;
        match read {
            Some(last) if last.stamp == stamp => Ok(last.clone()),
            _ => {
                let at = Instant::now();
                let text = Zeroizing::new(fs::read_to_string(&self.path).map_err(unreadable)?);
                let header = bearer(&text).ok_or_else(|| TokenError::NoToken(self.path.clone()))?;
                Ok(Read { stamp, header, at })
            }
        }
    }
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TokenFile").field(&self.path).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn file(path: &Path) -> TokenFile {
        TokenFile::new(path.to_owned())
    }

    #[test]
    fn reads_the_token_again_when_its_file_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "first\n").unwrap();
        let file = file(&path);
        assert_eq!(file.header().unwrap(), "Bearer first");
        let next = directory.path().join("next");
        fs::write(&next, "other\n").unwrap();
        fs::rename(next, &path).unwrap();
        assert_eq!(file.header().unwrap(), "Bearer other");
    }

    #[test]
    fn keeps_the_last_good_token_while_the_file_cannot_be_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        assert!(matches!(file(&path).header(), Err(TokenError::Read(..))));
        fs::write(&path, "  \n").unwrap();
        assert!(matches!(file(&path).header(), Err(TokenError::NoToken(_))));
        fs::write(&path, "good").unwrap();
        let file = file(&path);
        file.header().unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(file.header().unwrap(), "Bearer good");
        fs::remove_file(&path).unwrap();
        assert_eq!(file.header().unwrap(), "Bearer good");
    }

    #[test]
    fn shows_the_token_to_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "hunter2").unwrap();
        let file = file(&path);
        let header = file.header().unwrap();
        assert!(!format!("{file:?} {header:?}").contains("hunter2"));
    }
}
