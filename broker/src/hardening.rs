//! What the process gives up at start, so that its memory stays its own.

use std::panic::{self, PanicHookInfo};
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask};
use rustix::thread::{disable_transparent_huge_pages, set_no_new_privs};

use crate::telemetry::Metrics;

#[derive(Debug, thiserror::Error)]
#[error(
    "the kernel refused to {step}; Keyferry does not start unprotected: look for a seccomp profile that forbids it"
)]
pub struct Refused {
    step: &'static str,
    #[source]
    cause: Errno,
}

/// What is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hardened {
    /// How many descriptors may be open now; `None` without limit.
    pub open_files: Option<u64>,
}

/// To be called first, before any secret is read and any thread is started: some of it binds only this thread and those
/// that it starts.
pub fn harden() -> Result<Hardened, Refused> {
    // A core dump would hold every cached secret.
    let nothing = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, nothing).map_err(refused("forbid core dumps"))?;
    conceal()?;
    // No set-uid program started from here could undo that.
    set_no_new_privs(true).map_err(refused("give up gaining privileges"))?;
    // A huge page is resident as a whole for the few kilobytes that are used of it; a kernel without them need not care.
    let _ = disable_transparent_huge_pages(true);
    // The files that it writes are its own user's alone.
    umask(Mode::RWXG | Mode::RWXO);
    Ok(Hardened { open_files: raise_open_files() })
}

/// Neither a core handler nor another process of the same user may read this one's memory. A program started from here is
/// as it would have been.
pub fn conceal() -> Result<(), Refused> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(refused("make the process not dumpable"))
}

/// Logs and counts panics by place. The payload stays out: it can quote what was being worked on.
pub fn report_panics(metrics: Arc<Metrics>) {
    panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        metrics.panics.add(1);
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        match info.location() {
            Some(at) => tracing::error!(
                file = at.file(),
                line = at.line(),
                column = at.column(),
                thread,
                "panicked; report this"
            ),
            None => tracing::error!(thread, "panicked at an unknown place; report this"),
        }
    }));
}

/// Each connection takes one. The low default protects programs that use `select`, which we do not.
fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

fn refused(step: &'static str) -> impl FnOnce(Errno) -> Refused {
    move |cause| Refused { step, cause }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::process::Command;
    use std::sync::Mutex;

    use rustix::process::dumpable_behavior;
    use rustix::thread::no_new_privs;

    use super::*;
    use crate::clock::SystemClock;
    use crate::telemetry::{Point, names, process};

    const CHILD: &str = "KEYFERRY_TEST_HARDENED";

    /// What it does cannot be undone, so it does it to a process of its own.
    #[test]
    fn leaves_nothing_to_dump_trace_or_regain() {
        if std::env::var_os(CHILD).is_none() {
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "hardening::tests::leaves_nothing_to_dump_trace_or_regain"])
                .env(CHILD, "1")
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            return;
        }
        let hardened = harden().unwrap();

        let status = fs::read_to_string("/proc/self/status").unwrap();
        // Of this thread, which starts all others; the process's first one is not it in a test.
        let own = fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(own.contains("NoNewPrivs:\t1\n"), "{own}");
        assert!(status.contains("Umask:\t0077\n"), "{status}");
        assert!(no_new_privs().unwrap());
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);

        let limits = fs::read_to_string("/proc/self/limits").unwrap();
        let limit = |name: &str| -> Vec<String> {
            let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
            line[name.len()..].split_whitespace().take(2).map(str::to_owned).collect()
        };
        assert_eq!(limit("Max core file size"), ["0", "0"]);
        let files = limit("Max open files");
        assert_eq!(files[0], files[1], "the soft limit is at the hard one");
        assert_eq!(hardened.open_files.map(|files| files.to_string()).as_ref(), files.first());

        let metrics = Metrics::new([], [], Arc::new(SystemClock));
        metrics.register(process::sample);
        let samples = metrics.gather();
        for metric in [&names::PROCESS_MEMORY, &names::PROCESS_CPU, &names::PROCESS_FDS] {
            assert_eq!(samples.of(metric).count(), 1, "{} can still be read", metric.prometheus);
        }
    }

    #[derive(Clone, Debug, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The hook belongs to the whole process, so this too takes one of its own.
    #[test]
    fn tells_where_it_panicked_and_not_with_what() {
        if std::env::var_os(CHILD).is_none() {
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "hardening::tests::tells_where_it_panicked_and_not_with_what", "--nocapture"])
                .env(CHILD, "1")
                .output()
                .unwrap();
            let printed = [output.stdout, output.stderr].concat();
            let printed = String::from_utf8_lossy(&printed);
            assert!(output.status.success() && !printed.contains("hunter2"), "{printed}");
            return;
        }
        let metrics = Metrics::new([], [], Arc::new(SystemClock));
        report_panics(Arc::clone(&metrics));
        let page = Page::default();
        let writer = page.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let secret = "hunter2";
            assert!(panic::catch_unwind(|| panic!("cannot parse {secret}")).is_err());
        });
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("hardening.rs") && text.contains("panicked"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        let samples = metrics.gather();
        assert_eq!(samples.of(&names::PANICS).next().unwrap().point, Point::Whole(1));
    }
}
