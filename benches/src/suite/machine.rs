//! Where it was measured, and with what.

use std::fs;
use std::path::Path;
use std::process::Command;

use keyferry_benches::Outcome;

/// Label and value, for a table.
pub(crate) fn facts(keyferry: &Path, bao: Option<&Path>) -> Outcome<Vec<(&'static str, String)>> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    let gib = kib.map_or(0.0, |kib: f64| kib / 1024.0 / 1024.0);
    let mut facts = vec![
        ("Processor", model.map_or("unknown", |(_, name)| name).to_owned()),
        ("Cores", fs::read_to_string("/sys/devices/system/cpu/online")?.trim().to_owned()),
        ("Memory", format!("{gib:.0} GiB")),
        ("Kernel", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned()),
        ("Compiler", said(Command::new("rustc").arg("--version"))?),
        ("Keyferry", said(Command::new(keyferry).arg("--version"))?),
    ];
    if let Some(bao) = bao {
        facts.push(("OpenBao", said(Command::new(bao).arg("version"))?));
    }
    Ok(facts)
}

fn said(command: &mut Command) -> Outcome<String> {
    let output = command.output()?;
    Ok(String::from_utf8(output.stdout)?.lines().next().unwrap_or_default().to_owned())
}
