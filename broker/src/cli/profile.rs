//! A file that says which broker to ask, and as whom.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use http::Uri;
use rustix::fs::{Mode, OFlags, open, openat};
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
const FOLDER: &str = ".keyferry-dev";
const FILE: &str = "client.toml";
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

impl Profile {
    pub(super) fn read(file: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::usage(format!("profile {}: {error}", file.display())))?;
        Ok(Self::parse(file, &text)?.beside(file))
    }

    fn parse(file: &Path, text: &str) -> Result<Self, Failure> {
        toml::from_str(text).map_err(|error| Failure::usage(format!("profile {}: {}", file.display(), error.message())))
    }

    fn beside(self, file: &Path) -> Self {
        let beside = file.parent().unwrap_or(Path::new(""));
        let place = |path: Option<PathBuf>| path.map(|path| beside.join(path));
        Self {
            server: self.server,
            ca: place(self.ca),
            cert: place(self.cert),
            key: place(self.key),
            token_file: place(self.token_file),
        }
    }

    /// The one below this directory, if both are this user's own and nobody else's to write. Nobody named it, and it may
    /// have come with somebody's files: it leads to a broker on this host alone, with what lies beside it.
    pub(super) fn found(directory: &Path) -> Result<Option<Self>, Complaint> {
        let (folder, file) = (directory.join(FOLDER), directory.join(FOLDER).join(FILE));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(opened) = open(&folder, flags | OFlags::DIRECTORY, Mode::empty()) else { return Ok(None) };
        let Ok(profile) = openat(&opened, FILE, flags, Mode::empty()) else { return Ok(None) };
        let mut profile = File::from(profile);
        if !is_mine(&File::from(opened))? || !is_mine(&profile)? {
            return Ok(None);
        }
        let mut text = String::new();
        profile.read_to_string(&mut text)?;
        let said = Self::parse(&file, &text)?;
        let is_here = said.server.as_ref().is_none_or(|server| {
            server.parse::<Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| LOOPBACK.contains(&host)))
        });
        let paths = [&said.ca, &said.cert, &said.key, &said.token_file];
        let are_beside = paths.into_iter().flatten().all(|path| path.file_name() == Some(path.as_os_str()));
        if !is_here || !are_beside {
            let words = "was found, not named, and leads elsewhere; if you mean it, name it with --profile";
            return Err(Failure::usage(format!("profile {}: {words}", file.display())).into());
        }
        Ok(Some(said.beside(&file)))
    }

    /// What is missing here, from there. A certificate and its key come from one place.
    pub(super) fn or(self, other: Self) -> Self {
        let (cert, key) =
            if self.cert.is_none() && self.key.is_none() { (other.cert, other.key) } else { (self.cert, self.key) };
        Self {
            server: self.server.or(other.server),
            ca: self.ca.or(other.ca),
            cert,
            key,
            token_file: self.token_file.or(other.token_file),
        }
    }
}

fn is_mine(file: &File) -> std::io::Result<bool> {
    let about = file.metadata()?;
    Ok(about.uid() == rustix::process::geteuid().as_raw() && about.mode() & 0o022 == 0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_profile_is_found_only_where_nobody_else_can_write_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(FOLDER).join(FILE);
        assert_eq!(Profile::found(directory.path()).unwrap(), None);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "server = \"https://localhost:1\"\nca = \"ca.pem\"\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let found = Profile::found(directory.path()).unwrap().unwrap();
        assert_eq!(found.ca.unwrap(), directory.path().join(".keyferry-dev/ca.pem"));
        let folder = file.parent().unwrap();
        for (path, mode, good) in [(&*file, 0o666, 0o600), (folder, 0o777, 0o755)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Profile::found(directory.path()).unwrap(), None);
            fs::set_permissions(path, fs::Permissions::from_mode(good)).unwrap();
        }
        fs::rename(folder, directory.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", folder).unwrap();
        assert_eq!(Profile::found(directory.path()).unwrap(), None, "through a link");
    }

    #[test]
    fn a_profile_that_nobody_named_leads_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(FOLDER).join(FILE);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        for elsewhere in [
            "server = \"https://broker.example:7443\"",
            "server = \"https://localhost.example\"",
            "token_file = \"/var/run/secrets/token\"",
            "key = \"../key.pem\"",
        ] {
            fs::write(&file, elsewhere).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            let refused = Profile::found(directory.path()).unwrap_err().to_string();
            assert!(refused.contains("--profile"), "{elsewhere}: {refused}");
        }
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
