//! The key file: 32 random bytes as one line of hexadecimal digits, for the broker's user alone.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use thiserror::Error;
use zeroize::Zeroizing;

const KEY_LENGTH: usize = 32;
const DIGITS: usize = 2 * KEY_LENGTH;
/// Room for the digits and whatever ends the line; a longer file is no key.
const READ_LIMIT: u64 = DIGITS as u64 + 8;

/// What a local store's payloads are encrypted under.
#[allow(missing_debug_implementations, reason = "holds a key")]
pub struct LocalKey(Zeroizing<[u8; KEY_LENGTH]>);

#[derive(Debug, Error)]
pub enum KeyError {
    #[error(
        "the key file {0} does not exist; put back the one that the store was written with, or for a new store \
         create one: (umask 077; openssl rand -hex 32 > {0})"
    )]
    Missing(PathBuf),
    #[error("the key file {path} is open to other users (mode {mode:04o}); run: chmod 600 {path}")]
    Exposed { path: PathBuf, mode: u32 },
    #[error(
        "the key file {path} holds {length} characters where a key is {DIGITS} hexadecimal digits; put back the \
         one that the store was written with"
    )]
    Length { path: PathBuf, length: String },
    #[error("the key file {0} holds something other than {DIGITS} hexadecimal digits")]
    Digits(PathBuf),
    #[error("the key file {0} exists already and is left alone; name another path for a new key")]
    Exists(PathBuf),
    #[error("the key file {0} cannot be used; its path has to be open to the broker's user")]
    Io(PathBuf, #[source] io::Error),
    #[error("the system gave no random bytes for a key")]
    Random,
}

impl LocalKey {
    pub fn read_file(path: &Path) -> Result<Self, KeyError> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(KeyError::Missing(path.into()));
            }
            opened => opened.map_err(|error| KeyError::Io(path.into(), error))?,
        };
        // Of the open file, so that it cannot be exchanged between the look and the read.
        let mode = file.metadata().map_err(|error| KeyError::Io(path.into(), error))?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.into(), mode });
        }
        // Filled to its capacity at most: a growing buffer would leave copies behind.
        let mut text = Zeroizing::new(Vec::with_capacity(READ_LIMIT as usize + 1));
        file.take(READ_LIMIT).read_to_end(&mut text).map_err(|error| KeyError::Io(path.into(), error))?;
        Self::from_text(&text, path)
    }

    /// Creates the file; one that exists is never overwritten, as its store would be lost.
    pub fn generate_file(path: &Path) -> Result<Self, KeyError> {
        let mut key = Zeroizing::new([0; KEY_LENGTH]);
        rand::fill(&mut *key).map_err(|_| KeyError::Random)?;
        let mut text = Zeroizing::new(Vec::with_capacity(DIGITS + 1));
        for byte in key.iter() {
            text.push(hex_digit(byte >> 4));
            text.push(hex_digit(byte & 0xf));
        }
        text.push(b'\n');
        let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(KeyError::Exists(path.into()));
            }
            created => created.map_err(|error| KeyError::Io(path.into(), error))?,
        };
        // A key lost to a power cut loses every payload written under it.
        file.write_all(&text)
            .and_then(|()| file.sync_all())
            .and_then(|()| sync_directory(path))
            .map_err(|error| KeyError::Io(path.into(), error))?;
        Ok(Self(key))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &*self.0
    }

    fn from_text(text: &[u8], path: &Path) -> Result<Self, KeyError> {
        let digits = text.trim_ascii_end();
        if digits.len() != DIGITS {
            let more = if text.len() as u64 == READ_LIMIT { "more than " } else { "" };
            return Err(KeyError::Length { path: path.into(), length: format!("{more}{}", digits.len()) });
        }
        let mut key = Zeroizing::new([0; KEY_LENGTH]);
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let value = |digit: u8| char::from(digit).to_digit(16).ok_or_else(|| KeyError::Digits(path.into()));
            *byte = (value(pair[0])? << 4 | value(pair[1])?) as u8;
        }
        Ok(Self(key))
    }
}

/// Makes a new file's name durable, not only its content.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn hex_digit(nibble: u8) -> u8 {
    b"0123456789abcdef"[usize::from(nibble & 0xf)]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn refusal(content: &[u8], mode: u32) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("local.key");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        LocalKey::read_file(&path).err().unwrap().to_string()
    }

    #[test]
    fn reads_the_key_that_it_generated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("local.key");
        let made = LocalKey::generate_file(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read(&path).unwrap().len(), DIGITS + 1);
        assert!(LocalKey::read_file(&path).unwrap().bytes() == made.bytes());
    }

    #[test]
    fn never_overwrites_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("local.key");
        LocalKey::generate_file(&path).unwrap();
        let before = fs::read(&path).unwrap();
        assert!(matches!(LocalKey::generate_file(&path), Err(KeyError::Exists(_))));
        assert!(fs::read(&path).unwrap() == before);
    }

    #[test]
    fn says_how_to_make_a_missing_key() {
        let error = LocalKey::read_file(Path::new("/nonexistent/local.key")).err().unwrap().to_string();
        assert!(error.contains("openssl rand -hex 32 > /nonexistent/local.key"), "{error}");
    }

    #[test]
    fn refuses_a_key_that_others_can_read() {
        for mode in [0o640, 0o604, 0o644, 0o660] {
            let error = refusal(&[b'a'; DIGITS], mode);
            assert!(error.contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn refuses_what_is_no_key_without_quoting_it() {
        for content in [&b""[..], b"abc\n", &[b'b'; DIGITS - 1], &[b'b'; DIGITS + 1], &[b'b'; 4096], &[b'x'; DIGITS]] {
            let error = refusal(content, 0o600);
            assert!(error.contains("64 hexadecimal digits"), "{error}");
            assert!(!error.contains("bbb") && !error.contains("xxx"), "{error}");
        }
    }

    #[test]
    fn takes_a_key_with_any_line_end_and_either_case() {
        for end in ["", "\n", "\r\n"] {
            let text = format!("{}{end}", "aB".repeat(KEY_LENGTH));
            assert!(LocalKey::from_text(text.as_bytes(), Path::new("k")).unwrap().bytes() == [0xab; KEY_LENGTH]);
        }
    }
}
