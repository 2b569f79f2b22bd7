//! What must outlive a process, as records under keys in one revisioned store: embedded in a file, or etcd.
//!
//! A transaction checks its conditions and makes its changes in one step, and gets the next revision. A watch tells the
//! same changes in the same order. Secrets never enter: records are plain JSON that anyone with the file may read.
//!
//! An unreadable record stays where it is, so that a release that can read it finds it and nobody takes its key. Lists
//! pass over it, it is counted, and `keyferry state` names it.

mod embedded;
#[cfg(feature = "etcd")]
mod etcd;
mod failure;
#[cfg(test)]
mod fuzz;
mod handle;
mod key;
mod kinds;
mod leadership;
mod quarantine;
mod record;
mod same_history;
mod settings;
mod store;
mod txn;
mod watch;

pub use embedded::{Embedded, OpenError};
#[cfg(feature = "etcd")]
pub use etcd::{Etcd, EtcdError};
pub use failure::StateError;
pub use handle::{Page, State, Stored};
pub use key::{Key, KeyError, Prefix};
pub use kinds::{KINDS, fault};
pub use leadership::{Fence, Leadership, Term};
pub use quarantine::Quarantine;
pub use record::{Fault, Kind, Known, Record, Upgrade, content};
pub use settings::{EmbeddedSettings, EtcdSettings, Settings};
pub use store::{Entry, Epoch, ListPage, Listing, Position, Revision, Status, Store};
pub use txn::{Condition, Conflict, Outcome, Txn, TxnFault, Write};
pub use watch::{Batch, Change, Source, Watch, WatchEnd, Watched};
