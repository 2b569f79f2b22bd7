use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The way out of service: once started, listeners close, peers are told, and calls in flight may finish.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    begun: CancellationToken,
    tasks: TaskTracker,
}

impl Drain {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn start(&self) {
        self.begun.cancel();
        self.tasks.close();
    }

    pub fn is_draining(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Resolves when the drain starts; long-lived streams end on it.
    pub fn started(&self) -> WaitForCancellationFuture<'_> {
        self.begun.cancelled()
    }

    /// Resolves when the drain has started and every listener, connection and call under it is gone.
    pub async fn drained(&self) {
        self.begun.cancelled().await;
        self.tasks.wait().await;
    }

    /// Cancelled when the drain starts, for those who know of no transport.
    pub fn token(&self) -> CancellationToken {
        self.begun.clone()
    }

    /// Keeps `drained` pending for as long as the token lives.
    pub(super) fn hold(&self) -> TaskTrackerToken {
        self.tasks.token()
    }

    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }
}
