//! A file that is replaced whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use rustix::fs::OFlags;
use tempfile::{Builder, NamedTempFile};

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
        self.write(beside.as_file(), content)?;
        beside.persist(path).map_err(|refused| refused.error)?;
        // The name is durable only when its directory is.
        File::open(directory(path))?.sync_all()?;
        Ok(true)
    }

    /// Its owner and mode are right before anything is in it.
    fn write(&self, mut file: &File, content: &[u8]) -> io::Result<()> {
        if let Some((user, group)) = self.owner {
            fchown(file, Some(user), group)?;
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

/// A new file of one's own on the same file system, hidden. Its lock tells others that it is in use.
fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    prefix.push(".keyferry-");
    for there in fs::read_dir(directory(path))? {
        let there = there?;
        if there.file_name().as_bytes().starts_with(prefix.as_bytes()) {
            throw_away(&there.path());
        }
    }
    loop {
        let file = Builder::new().prefix(&prefix).tempfile_in(directory(path))?;
        file.as_file().lock()?;
        // Before that, somebody may have taken it for a dead one's.
        if is_at(file.as_file(), file.path()) {
            return Ok(file);
        }
    }
}

/// What a killed process left holds secrets; what is locked is another's that lives.
fn throw_away(left: &Path) {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    if let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(left)
        && file.try_lock().is_ok()
        && is_at(&file, left)
    {
        let _ = fs::remove_file(left);
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(file), Ok(there)) => (file.dev(), file.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
