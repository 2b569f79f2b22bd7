//! Which replica has the duties that only one may have.

use tokio::sync::watch;

/// Follows who leads. Its owner works while it has a fence, and puts the fence into every transaction of that work.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<Term>);

/// Who leads, as this replica knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Term {
    /// Empty while nobody leads.
    pub leader: Option<String>,
    /// Present while it is this replica.
    pub fence: Option<Fence>,
}

/// Proof of having been elected. A transaction that carries it fails once somebody else could have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence(pub(super) Held);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// There is one replica: the file's lock sees to it.
    Alone,
    /// The leader's key as it was created at this revision.
    #[cfg(feature = "etcd")]
    Since(i64),
}

impl Leadership {
    pub(super) fn new(terms: watch::Receiver<Term>) -> Self {
        Self(terms)
    }

    pub fn term(&self) -> Term {
        self.0.borrow().clone()
    }

    /// Returns when this replica leads.
    pub async fn elected(&mut self) -> Fence {
        loop {
            if let Some(fence) = self.0.borrow_and_update().fence {
                return fence;
            }
            self.changed().await;
        }
    }

    /// Returns when this replica no longer leads by that fence.
    pub async fn deposed(&mut self, fence: Fence) {
        while self.0.borrow_and_update().fence == Some(fence) {
            self.changed().await;
        }
    }

    async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The store is closed: nothing changes any more.
            std::future::pending::<()>().await;
        }
    }
}
