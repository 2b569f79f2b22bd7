//! The configuration file itself, and the files that it names.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use super::document::MAX_BYTES;
use super::kind::FileUse;
use super::problem::{Place, Problem, Problems};
use super::reader::UsedFile;

pub(super) fn read(path: &Path) -> Result<String, Problems> {
    let refuse = |message: String| {
        let file = path.to_string_lossy().into();
        Problems(vec![Problem { place: Place::File, message, file }])
    };
    let mut bytes = Vec::new();
    // One byte more than allowed is enough to see that it is too large.
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let result = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    result.map_err(|error| {
        refuse(format!("cannot read the configuration: {error}; correct the path, or put the file there"))
    })?;
    if bytes.len() > MAX_BYTES {
        return Err(refuse(format!(
            "the file has more than {MAX_BYTES} bytes; a configuration never has: give another file"
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|&&byte| byte == b'\n').count() + 1;
        refuse(format!("line {line} is not UTF-8 text; save the file as UTF-8"))
    })
}

pub(super) fn check(files: &[UsedFile], configuration: &Arc<str>) -> Vec<Problem> {
    let problem = |file: &UsedFile| {
        let fault = check_one(&file.path, file.file_use).err()?;
        let message = format!("{}: {} {fault}", file.key, file.path.display());
        Some(Problem { place: file.place.clone(), message, file: configuration.clone() })
    };
    let mut problems: Vec<Problem> = files.iter().filter_map(problem).collect();
    problems.sort();
    problems.dedup();
    problems
}

fn check_one(path: &Path, file_use: FileUse) -> Result<(), String> {
    match (open(path, file_use), file_use) {
        (Err(error), FileUse::MadePrivately) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        (Err(error), _) => Err(describe(&error)),
        (Ok(metadata), FileUse::Directory) if metadata.is_dir() => Ok(()),
        (Ok(_), FileUse::Directory) => Err("is not a directory; write the path of one".to_owned()),
        (Ok(metadata), _) if !metadata.is_file() => Err("is not a file; write the path of one".to_owned()),
        (Ok(_), FileUse::Read) => Ok(()),
        (Ok(metadata), FileUse::ReadPrivately | FileUse::MadePrivately) => check_private(&metadata),
    }
}

fn describe(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound {
        "does not exist; put it there, or correct the path".to_owned()
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "may not be read by the broker's user; change its owner or mode".to_owned()
    } else {
        format!("cannot be read: {error}; correct the path")
    }
}

/// Opening tells what looking at the mode cannot.
fn open(path: &Path, file_use: FileUse) -> io::Result<Metadata> {
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() && file_use == FileUse::Directory {
        fs::read_dir(path)?;
    } else if metadata.is_file() {
        File::open(path)?;
    }
    Ok(metadata)
}

/// A key that root owns may be read through its group: so does Kubernetes hand secrets to a process that is not root.
fn check_private(metadata: &Metadata) -> Result<(), String> {
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & forbidden == 0 {
        return Ok(());
    }
    Err(format!("is open to others (mode {mode:03o}); run chmod 600 on it, or in Kubernetes set defaultMode to 0440"))
}
