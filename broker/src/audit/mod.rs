//! The audit log: one record per call, committed before the answer leaves.
//!
//! A log is a directory of files `{first sequence}.jsonl`. Every line is one JSON object and one link of a hash chain:
//! it carries its sequence number, the SHA-256 of the whole previous line (`prev`, across files too) and, last, a
//! CRC-32C of itself, which says *which* line was damaged where the chain alone would only say between which two.
//! Checkpoints, Ed25519-signed lines in the chain, fix everything before them; the signed file `head` remembers the
//! newest checkpoint that reached the disk, so that a cut tail or missing newest files are noticed.
//!
//! What the scheme cannot detect, so that nobody relies on it:
//! - records after the last checkpoint are unsigned. Whoever may write the directory can cut or rewrite that tail; the
//!   checkpoint interval bounds how much that is, and `verify` says how long the tail is;
//! - the whole directory put back to an earlier state, `head` included, is a valid log. Copy heads off the machine;
//! - the oldest files removed look like files archived by an operator: `verify` says where the log begins;
//! - who holds the signing key can rewrite everything, and who may write the directory can replace the public keys
//!   in it too. Give `verify` a public key that was kept elsewhere.

mod directory;
mod draft;
#[cfg(test)]
mod fuzz;
mod head;
mod key;
mod line;
mod log;
mod notices;
mod queue;
mod record;
mod recovery;
mod report;
mod segment;
mod settings;
mod syncer;
mod verify;
mod writer;

#[cfg(test)]
mod tests;

pub use draft::Draft;
pub use key::{KeyError, PublicKeys};
pub use log::{Commit, Failing, Health, Log, OpenError, Receipt, Unavailable};
pub use record::{Decision, Item, Record};
pub use recovery::{Cut, Damage, HeadState, Recovery};
pub use report::{Problem, Report};
pub use segment::{Loss, LossKind};
pub use settings::{Mode, Settings};
pub use verify::{VerifyError, verify};
