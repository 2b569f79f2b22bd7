use std::path::PathBuf;
use std::time::Duration;

/// Where the audit log lies and how durable a record must be before its answer leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub directory: PathBuf,
    pub mode: Mode,
    /// How often `written` records reach the disk.
    pub sync_interval: Duration,
    pub checkpoint_interval: Duration,
    /// A file that has grown to this many bytes is sealed and the next one begun.
    pub roll_at: u64,
    /// Ed25519 key (PKCS#8 PEM) that signs checkpoints; made on first start where it is missing.
    pub signing_key: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the kernel before the answer leaves: survives the death of the process.
    Written,
    /// On the disk before the answer leaves: survives the death of the machine.
    Synced,
}
