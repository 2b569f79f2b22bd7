//! A token that was minted and has not left yet.

use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::record::{Cause, Lease};
use super::worker::{LONGEST_DELAY, PAUSE};
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
    issue: u32,
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
    pub(super) fn new(inner: Arc<Inner>, lease: &Lease) -> Self {
        Self { inner, lease: lease.name.clone(), issue: lease.issue, done: false }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.done
            && let Ok(runtime) = Handle::try_current()
        {
            let giving_up = Arc::clone(&self.inner).give_up(self.lease.clone(), self.issue);
            self.inner.tasks.spawn_on(giving_up, &runtime);
        }
    }
}

impl Inner {
    /// Puts on record that a token never left, whichever replica leads. A call that was repeated has taken the lease over.
    pub(super) async fn give_up(self: Arc<Self>, lease: LeaseName, issue: u32) {
        let mut delay = PAUSE;
        while let Err(failure) = self.decide_if(&lease, Cause::MintIncomplete, None, |lease| lease.issue == issue).await
        {
            tracing::warn!(%lease, reason = failure.reason().as_str_name(), cause = failure.cause(),
                "a token that did not leave cannot be revoked yet; tried again");
            if self.stop.run_until_cancelled(sleep(delay)).await.is_none() {
                return;
            }
            delay = delay.saturating_mul(2).min(LONGEST_DELAY);
        }
    }
}
