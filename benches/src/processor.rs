//! A server on a core of its own, and the time it has used there.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Outcome;

const SERVER: usize = 0;
const GENERATOR: usize = 1;

/// To be run on the servers' core, and with as many threads as that is worth.
pub fn on_one_core(program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &SERVER.to_string()]).arg(program);
    command
}

/// Keeps this thread, and those it starts, off the servers' core, where there is another.
pub fn leave_the_servers_core() -> Outcome<()> {
    if available_parallelism()?.get() > GENERATOR {
        let mut own = CpuSet::new();
        own.set(GENERATOR);
        sched_setaffinity(None, &own)?;
    }
    Ok(())
}

/// In seconds, of all threads.
pub fn processor_time(process: u32) -> Outcome<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // After the name in parentheses: the 12th and 13th are user and system time, in ticks.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks = fields.map(str::parse::<u32>).sum::<Result<u32, _>>()?;
    Ok(f64::from(ticks) / rustix::param::clock_ticks_per_second() as f64)
}
