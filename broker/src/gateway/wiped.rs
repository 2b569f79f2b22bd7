//! A buffer for what may hold a secret: it is zeroed when it is dropped, and what it outgrows as well.

use std::io;

use bytes::Bytes;
use zeroize::Zeroizing;

#[allow(missing_debug_implementations, reason = "a secret has no text form")]
pub(super) struct Wiped(Zeroizing<Vec<u8>>);

impl Wiped {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(bytes)))
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// At that place, before what follows it.
    pub(super) fn insert(&mut self, place: usize, bytes: &[u8]) {
        let end = self.0.len();
        self.put(bytes);
        self.0.copy_within(place..end, place + bytes.len());
        self.0[place..place + bytes.len()].copy_from_slice(bytes);
    }

    /// Lets `fill` write up to `most` bytes at the end; it says how many it did.
    pub(super) fn put_with<E>(
        &mut self,
        most: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let start = self.0.len();
        self.make_room(most);
        self.0.resize(start + most, 0);
        let filled = fill(&mut self.0[start..]);
        self.0.truncate(start + filled.as_ref().copied().unwrap_or(0));
        filled.map(drop)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Zeroed with the last of their clones.
    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// A vector that grows by itself leaves its old bytes behind.
    fn make_room(&mut self, more: usize) {
        if self.0.capacity() - self.0.len() >= more {
            return;
        }
        let mut larger = Vec::with_capacity((self.0.len() + more).max(self.0.capacity() * 2));
        larger.extend_from_slice(&self.0);
        self.0 = Zeroizing::new(larger);
    }
}

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl io::Write for Wiped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
