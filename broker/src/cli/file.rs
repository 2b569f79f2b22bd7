//! A file that is replaced whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

/// Whose a file is, and who may read it.
pub(super) struct Placement {
    pub(super) mode: u32,
    pub(super) owner: Option<(u32, Option<u32>)>,
}

impl Placement {
    /// Whether there was anything to change. Whoever reads meanwhile, or after this process was killed, finds the old file
    /// or the new one.
    pub(super) fn put(&self, path: &Path, content: &[u8]) -> io::Result<bool> {
        if self.is_there(path, content) {
            return Ok(false);
        }
        let beside = beside(path)?;
        // What a killed process left holds secrets, and is in the way.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let written = self.write(&beside, content).and_then(|()| fs::rename(&beside, path));
        if let Err(error) = written {
            let _ = fs::remove_file(&beside);
            return Err(error);
        }
        // The name is durable only when its directory is.
        File::open(directory(path))?.sync_all()?;
        Ok(true)
    }

    /// Its owner and mode are right before anything is in it.
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        if let Some((user, group)) = self.owner {
            fchown(&file, Some(user), group)?;
        }
        file.set_permissions(Permissions::from_mode(self.mode))?;
        file.write_all(content)?;
        file.sync_all()
    }

    fn is_there(&self, path: &Path, content: &[u8]) -> bool {
        let Ok(about) = fs::symlink_metadata(path) else { return false };
        let owned = self
            .owner
            .is_none_or(|(user, group)| about.uid() == user && group.is_none_or(|group| about.gid() == group));
        about.is_file() && owned && about.mode() & 0o7777 == self.mode && fs::read(path).is_ok_and(|now| now == content)
    }
}

/// On the same file system, hidden, and the same each time.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".keyferry-new");
    Ok(directory(path).join(hidden))
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
