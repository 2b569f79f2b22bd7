//! Counters on the branches of what was compiled with them (`tools/counted`); there are none otherwise.

#![allow(unsafe_code)]

use std::slice;
use std::sync::Mutex;

/// A module's counters, which live as long as the program.
struct Region {
    start: usize,
    length: usize,
}

static REGIONS: Mutex<Vec<Region>> = Mutex::new(Vec::new());

/// Called by each module of the instrumented crate before `main`.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    let (start, stop) = (start as usize, stop as usize);
    if let Ok(mut regions) = REGIONS.lock()
        && !regions.iter().any(|region| region.start == start)
    {
        regions.push(Region { start, length: stop - start });
    }
}

/// Which branches were taken, and how often by order of magnitude.
pub(crate) struct Coverage {
    regions: Vec<&'static mut [u8]>,
    /// A bit for each order of magnitude of each counter.
    seen: Vec<Vec<u8>>,
}

/// What an input did: pairs of a counter and an order of magnitude.
pub(crate) type Reached = Vec<u64>;

impl Coverage {
    /// Of the whole program: made once for each run of a target, while nothing else runs.
    pub(crate) fn new() -> Self {
        let regions = REGIONS.lock().map(|regions| {
            regions
                .iter()
                // SAFETY: the linker laid out these bytes for counting, and no other reference to them exists.
                .map(|region| unsafe { slice::from_raw_parts_mut(region.start as *mut u8, region.length) })
                .collect()
        });
        let regions: Vec<&'static mut [u8]> = regions.unwrap_or_default();
        let seen = regions.iter().map(|region| vec![0; region.len()]).collect();
        Self { regions, seen }
    }

    /// All that there is to be taken, in the whole crate.
    pub(crate) fn branches(&self) -> usize {
        self.seen.iter().map(Vec::len).sum()
    }

    pub(crate) fn taken(&self) -> usize {
        self.seen.iter().flatten().filter(|seen| **seen != 0).count()
    }

    pub(crate) fn clear(&mut self) {
        self.regions.iter_mut().for_each(|region| region.fill(0));
    }

    /// What was counted since [`clear`](Self::clear) and never before.
    pub(crate) fn news(&mut self) -> bool {
        let mut news = false;
        self.each(|seen, magnitude, _| {
            news |= *seen & magnitude == 0;
            *seen |= magnitude;
        });
        news
    }

    pub(crate) fn reached(&mut self) -> Reached {
        let mut reached = Vec::new();
        self.each(|_, magnitude, index| reached.push((index << 8) | u64::from(magnitude)));
        reached
    }

    fn each(&mut self, mut counted: impl FnMut(&mut u8, u8, u64)) {
        let mut index = 0;
        for (region, seen) in self.regions.iter().zip(&mut self.seen) {
            for (counters, seen) in region.chunks(8).zip(seen.chunks_mut(8)) {
                // Almost all are zero.
                if counters.iter().any(|counter| *counter != 0) {
                    for (at, (counter, seen)) in (index..).zip(counters.iter().zip(seen)) {
                        if *counter != 0 {
                            counted(seen, magnitude(*counter), at);
                        }
                    }
                }
                index += 8;
            }
        }
    }
}

fn magnitude(count: u8) -> u8 {
    1 << match count {
        0..=3 => count.saturating_sub(1),
        4..=7 => 3,
        8..=15 => 4,
        16..=31 => 5,
        32..=127 => 6,
        128.. => 7,
    }
}
