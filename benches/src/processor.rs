//! A server on a core of its own, and the time it has used there.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Outcome;

/// To be run on the servers' core, and with as many threads as that is worth.
pub fn on_one_core(program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &cores()[0].to_string()]).arg(program);
    command
}

/// Keeps this thread, and those it starts, off the servers' core, where there is another.
pub fn leave_the_servers_core() -> Outcome<()> {
    if let Some(&core) = cores().get(1) {
        let mut own = CpuSet::new();
        own.set(core);
        sched_setaffinity(None, &own)?;
    }
    Ok(())
}

/// Those that this process could use when it first asked, before it confined itself.
fn cores() -> &'static [usize] {
    static CORES: OnceLock<Vec<usize>> = OnceLock::new();
    CORES.get_or_init(|| {
        let allowed = sched_getaffinity(None).expect("a kernel that tells its cores");
        (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect()
    })
}

/// In seconds, of all threads.
pub fn processor_time(process: u32) -> Outcome<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // After the name in parentheses: the 12th and 13th are user and system time, in ticks.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks = fields.map(str::parse::<u32>).sum::<Result<u32, _>>()?;
    Ok(f64::from(ticks) / rustix::param::clock_ticks_per_second() as f64)
}
