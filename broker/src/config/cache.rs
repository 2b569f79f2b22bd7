//! `[cache]`

use super::kind::size;
use super::reader::Reader;

const ABOUT: &str = "What was read lately is kept in memory, so that it is there at once, and while its store is out. \
                     How long is said for each store, under `[stores.NAME]`.";

/// The most that is kept, in bytes.
pub(super) fn read(reader: &mut Reader<'_>) -> u64 {
    reader.section("cache", ABOUT, |s| {
        s.with_default(
            "size",
            size("1MiB", "64GiB"),
            "256MiB",
            "The memory that secrets and their labels may take; what was used least goes first.",
        )
    })
}
