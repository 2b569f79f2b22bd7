//! The text of the policy files, as one reading found it.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::{PolicyError, SCHEMA};
use crate::digest::Digest;

pub(super) const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Files' names and texts, in the order of their names. Nothing of it has been parsed.
#[derive(Clone, Debug)]
pub(in super::super) struct Sources(pub(super) Vec<(String, String)>);

impl Sources {
    pub(in super::super) fn read(directory: &Path) -> Result<Self, PolicyError> {
        let files = files(directory).map_err(|error| PolicyError::Read(directory.to_owned(), error))?;
        if files.is_empty() {
            return Err(PolicyError::None(directory.to_owned()));
        }
        files.into_iter().map(|path| Ok((name_of(&path), text_of(path)?))).collect::<Result<_, _>>().map(Self)
    }

    /// Over the schema and all files. Each goes in as a digest of its own, so that no two sets run together.
    pub(in super::super) fn hash(&self) -> Digest {
        let mut parts = vec![Digest::of(SCHEMA.as_bytes())];
        parts.extend(self.iter().flat_map(|(file, text)| [Digest::of(file.as_bytes()), Digest::of(text.as_bytes())]));
        Digest::of_parts(&parts.iter().map(|part| part.0.as_slice()).collect::<Vec<_>>())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(file, text)| (file.as_str(), text.as_str()))
    }
}

fn files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cedar") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn text_of(path: PathBuf) -> Result<String, PolicyError> {
    let mut text = String::new();
    // Bounded while it is read: a length asked for before may be another one by now.
    let read = File::open(&path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    match read {
        Ok(length) if length as u64 > MAX_FILE => Err(PolicyError::TooLarge(path)),
        Ok(_) => Ok(text),
        Err(error) => Err(PolicyError::ReadFile(path, error)),
    }
}
