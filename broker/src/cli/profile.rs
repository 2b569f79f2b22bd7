//! A file that says which broker to ask, and as whom.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Complaint;
use super::failure::Failure;

/// Paths are relative to the profile's own directory.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    pub(super) server: Option<String>,
    pub(super) ca: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) token_file: Option<PathBuf>,
}

/// Where `keyferry dev` leaves one.
const FOUND: &str = ".keyferry-dev/client.toml";

impl Profile {
    pub(super) fn read(file: &Path) -> Result<Self, Failure> {
        let bad = |error: &dyn std::fmt::Display| Failure::usage(format!("profile {}: {error}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| bad(&error))?;
        let said: Self = toml::from_str(&text).map_err(|error| bad(&error.message()))?;
        let beside = file.parent().unwrap_or(Path::new(""));
        let place = |path: Option<PathBuf>| path.map(|path| beside.join(path));
        Ok(Self {
            server: said.server,
            ca: place(said.ca),
            cert: place(said.cert),
            key: place(said.key),
            token_file: place(said.token_file),
        })
    }

    /// The one below this directory, if it is this user's own and nobody else's to write.
    pub(super) fn found(directory: &Path) -> Result<Option<Self>, Complaint> {
        let file = directory.join(FOUND);
        let Ok(about) = std::fs::metadata(&file) else { return Ok(None) };
        let mine = about.uid() == rustix::process::geteuid().as_raw() && about.mode() & 0o022 == 0;
        if mine { Ok(Some(Self::read(&file)?)) } else { Ok(None) }
    }

    /// What is missing here, from there.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            server: self.server.or(other.server),
            ca: self.ca.or(other.ca),
            cert: self.cert.or(other.cert),
            key: self.key.or(other.key),
            token_file: self.token_file.or(other.token_file),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_profile_is_found_only_where_nobody_else_can_write_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(FOUND);
        assert_eq!(Profile::found(directory.path()).unwrap(), None);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "server = \"https://localhost:1\"\nca = \"ca.pem\"\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let found = Profile::found(directory.path()).unwrap().unwrap();
        assert_eq!(found.ca.unwrap(), directory.path().join(".keyferry-dev/ca.pem"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(Profile::found(directory.path()).unwrap(), None);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_files_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("client.toml");
        fs::write(&file, "sever = \"x\"\n").unwrap();
        let error = Profile::read(&file).unwrap_err().to_string();
        assert!(error.contains("client.toml") && error.contains("sever"), "{error}");
    }
}
