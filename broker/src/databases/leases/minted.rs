//! A token that was minted and has not left yet.

use std::sync::Arc;

use bytes::Bytes;

use super::record::{Cause, Lease};
use super::{Database, Inner};
use crate::audit::Receipt;
use crate::names::LeaseName;
use crate::secrets::SecretBytes;

/// Dropped before it is disclosed (the audit log failed, the caller went away), it is revoked.
#[must_use = "a token that is not disclosed is revoked"]
#[allow(missing_debug_implementations, reason = "holds a secret")]
pub struct Minted {
    pub(super) lease: Lease,
    pub(super) password: SecretBytes,
    pub(super) database: Database,
    pub(super) delivery: Delivery,
}

/// Whether what was minted reached its caller, as far as the broker can see to it.
pub(super) struct Delivery {
    inner: Arc<Inner>,
    lease: LeaseName,
    done: bool,
}

impl Minted {
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The receipt proves that the mint is on record.
    pub fn disclose(mut self, on_record: &Receipt) -> (Lease, Bytes, Database) {
        self.delivery.done = true;
        (self.lease, self.password.disclose(on_record), self.database)
    }
}

impl Delivery {
    pub(super) fn new(inner: Arc<Inner>, lease: LeaseName) -> Self {
        Self { inner, lease, done: false }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.done {
            self.inner.doom(&self.lease, Cause::MintIncomplete);
        }
    }
}
