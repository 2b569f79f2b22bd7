//! `[policy]`

use std::path::PathBuf;
use std::time::Duration;

use super::kind::{FileUse, duration, file};
use super::reader::Reader;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySettings {
    pub directory: PathBuf,
    pub reload_interval: Duration,
}

pub(super) fn read(reader: &mut Reader<'_>) -> PolicySettings {
    reader.section("policy", "Who may do what. Without a policy that permits it, a call is denied.", |s| {
        PolicySettings {
            directory: s.required("directory", file(FileUse::Directory), "Holds the `.cedar` files."),
            reload_interval: s.with_default(
                "reload_interval",
                duration("1s", "1h"),
                "10s",
                "How often the directory is looked at for a change.",
            ),
        }
    })
}
