//! What the process itself uses, from /proc.
//!
//! A process that is not dumpable finds its /proc files owned by root. Those read here are readable to all, and the
//! kernel lets a process list its own descriptors; a number that cannot be read is left out.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::names;
use super::samples::Samples;

pub(crate) fn sample(out: &mut Samples) {
    if let Some(pages) = resident_pages() {
        out.set(&names::PROCESS_MEMORY, &[], pages * page_size() as u64);
    }
    if let Some((ticks, threads)) = cpu_ticks_and_threads() {
        out.set(&names::PROCESS_CPU, &[], ticks as f64 / clock_ticks_per_second() as f64);
        out.set(&names::PROCESS_THREADS, &[], threads);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // Listing them takes one as well.
        out.set(&names::PROCESS_FDS, &[], open.count().saturating_sub(1) as u64);
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        out.set(&names::PROCESS_MAX_FDS, &[], limit);
    }
}

fn resident_pages() -> Option<u64> {
    fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()
}

fn cpu_ticks_and_threads() -> Option<(u64, u64)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in brackets, with any characters in it. What follows starts at field 3.
    let (_, rest) = stat.rsplit_once(") ")?;
    let field = |number: usize| rest.split(' ').nth(number - 3)?.parse::<u64>().ok();
    Some((field(14)? + field(15)?, field(20)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::samples::Point;

    #[test]
    fn knows_memory_time_threads_and_descriptors() {
        let mut out = Samples::default();
        sample(&mut out);
        for metric in [
            &names::PROCESS_MEMORY,
            &names::PROCESS_CPU,
            &names::PROCESS_THREADS,
            &names::PROCESS_FDS,
            &names::PROCESS_MAX_FDS,
        ] {
            assert_eq!(out.of(metric).count(), 1, "{}", metric.prometheus);
        }
        let memory = out.of(&names::PROCESS_MEMORY).next().unwrap();
        assert!(matches!(memory.point, Point::Whole(bytes) if bytes > 100_000 && bytes < 10_000_000_000));
    }
}
