//! What a process occupies, as its kernel tells.

use std::fs;

use crate::Outcome;

/// In KiB, of a process.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    resident: u64,
    /// The most that was ever resident.
    peak: u64,
    /// Heap and stacks, of the above.
    anonymous: u64,
    /// Shared pages counted in proportion, and what is nobody else's; a kernel may keep them from us.
    proportional: Option<u64>,
    private: Option<u64>,
}

pub const RESIDENT: &str = "resident";

/// The highest of each, in KiB; `None` where a kernel keeps it from us.
pub fn highest(of: &[Memory]) -> [(&'static str, Option<u64>); 5] {
    let highest = |field: fn(&Memory) -> Option<u64>| of.iter().filter_map(field).max();
    [
        (RESIDENT, highest(|memory| Some(memory.resident))),
        ("  ever", highest(|memory| Some(memory.peak))),
        ("  of it anonymous", highest(|memory| Some(memory.anonymous))),
        ("proportional (PSS)", highest(|memory| memory.proportional)),
        ("private", highest(|memory| memory.private)),
    ]
}

impl Memory {
    /// In KiB.
    pub fn resident(&self) -> u64 {
        self.resident
    }

    pub fn of(process: u32) -> Outcome<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        // The broker is not dumpable, which keeps this one from all but root.
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
        let private = field(&rollup, "Private_Clean:").zip(field(&rollup, "Private_Dirty:"));
        Ok(Self {
            resident: field(&status, "VmRSS:").ok_or("no VmRSS")?,
            peak: field(&status, "VmHWM:").ok_or("no VmHWM")?,
            anonymous: field(&status, "RssAnon:").ok_or("no RssAnon")?,
            proportional: field(&rollup, "Pss:"),
            private: private.map(|(clean, dirty)| clean + dirty),
        })
    }
}

/// `Name:   123 kB`
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
