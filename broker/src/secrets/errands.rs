//! Work that goes on when the caller who began it has left: a load that others wait for, a change that was sent.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Owns the tasks. Each is bounded in time by the provider that it calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Errands {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Errands {
    /// For what may be broken off when the broker stops.
    pub(super) fn spawn(&self, load: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(load).await;
        });
    }

    /// For what must come to its end: nobody could tell whether a change that was broken off was made.
    pub(super) fn carry_out<T: Send + 'static>(
        &self,
        change: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tasks.spawn(change)
    }

    pub(super) fn are_ending(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(super) async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
