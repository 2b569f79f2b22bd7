//! The inputs of a target that are kept in files.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

pub(crate) struct Corpus {
    committed: PathBuf,
    found: PathBuf,
}

impl Corpus {
    pub(crate) fn open(name: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self { committed: root.join("corpus").join(name), found: root.join("found").join(name) }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.committed
    }

    /// The committed ones, in the order of their names.
    pub(crate) fn inputs(&self) -> Vec<Vec<u8>> {
        read(&self.committed)
    }

    /// What earlier guided runs found.
    pub(crate) fn found(&self) -> Vec<Vec<u8>> {
        read(&self.found)
    }

    pub(crate) fn replace_found<'a>(&self, inputs: impl Iterator<Item = &'a Vec<u8>>) {
        let _ = fs::remove_dir_all(&self.found);
        for input in inputs {
            self.keep(&digest(input), input);
        }
    }

    /// For a person to look at, and to commit once the fault is mended.
    pub(crate) fn keep_failing(&self, input: &[u8]) -> PathBuf {
        self.keep(&format!("failing-{}", digest(input)), input)
    }

    #[expect(clippy::expect_used, reason = "a finding that cannot be kept must not go unseen")]
    fn keep(&self, file: &str, input: &[u8]) -> PathBuf {
        fs::create_dir_all(&self.found).expect("the directory of findings");
        let path = self.found.join(file);
        fs::write(&path, input).expect("a finding");
        path
    }
}

fn read(directory: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort_unstable();
    paths.iter().filter_map(|path| fs::read(path).ok()).collect()
}

fn digest(input: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
