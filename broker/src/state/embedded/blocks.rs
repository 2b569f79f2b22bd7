//! The file's blocks, given to it before they are used.
//!
//! A commit whose pages lie in blocks that the file system has yet to find waits, at its sync, for the file system's own
//! journal as well, which takes many times as long as the data. So zeros go ahead of the data, a stretch at a time.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

/// Written at once: some milliseconds for one commit of thousands.
const STRETCH: u64 = 8 << 20;
const ZEROS: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Blocks {
    file: FileBackend,
    /// Everything below was written. What lies above was never, since the file grew to there.
    written: Mutex<u64>,
}

impl Blocks {
    pub(super) fn new(file: File) -> Result<Self, DatabaseError> {
        let written = Mutex::new(file.metadata().map_err(redb::StorageError::Io)?.len());
        Ok(Self { file: FileBackend::new(file)?, written })
    }

    fn write_ahead_of(&self, end: u64) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if end <= *written {
            return Ok(());
        }
        let until = end.next_multiple_of(STRETCH).min(self.file.len()?).max(end);
        let zeros = vec![0; ZEROS];
        while *written < until {
            let part = usize::try_from(until - *written).map_or(ZEROS, |left| left.min(ZEROS));
            self.file.write(*written, &zeros[..part])?;
            *written += part as u64;
        }
        Ok(())
    }
}

impl StorageBackend for Blocks {
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_ahead_of(offset + data.len() as u64)?;
        self.file.write(offset, data)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        *written = length.min(*written);
        self.file.set_len(length)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn zeros_go_ahead_of_the_data_and_never_over_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let blocks = Blocks::new(file.reopen().unwrap()).unwrap();
        blocks.set_len(3 * STRETCH).unwrap();
        blocks.write(100, b"first").unwrap();
        assert!(file.as_file().metadata().unwrap().blocks() * 512 >= STRETCH);
        assert!(file.as_file().metadata().unwrap().blocks() * 512 < 2 * STRETCH);
        blocks.write(2 * STRETCH + 7, b"third").unwrap();
        blocks.write(STRETCH + 9, b"second").unwrap();
        blocks.set_len(STRETCH + 12).unwrap();
        blocks.set_len(3 * STRETCH).unwrap();
        blocks.write(2 * STRETCH, b"again").unwrap();
        let read = |offset, length| {
            let mut bytes = vec![0; length];
            blocks.read(offset, &mut bytes).unwrap();
            bytes
        };
        assert_eq!(read(98, 9), b"\0\0first\0\0");
        assert_eq!(read(STRETCH + 9, 6), b"sec\0\0\0");
        assert_eq!(read(2 * STRETCH, 12), b"again\0\0\0\0\0\0\0");
        drop(blocks);

        let blocks = Blocks::new(file.reopen().unwrap()).unwrap();
        blocks.set_len(4 * STRETCH).unwrap();
        blocks.write(3 * STRETCH, b"fourth").unwrap();
        assert_eq!(read_all(&file, 2 * STRETCH, 5), b"again");
    }

    fn read_all(file: &tempfile::NamedTempFile, offset: u64, length: usize) -> Vec<u8> {
        use std::os::unix::fs::FileExt as _;
        let mut bytes = vec![0; length];
        file.as_file().read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }
}
