//! A program that runs in this one's place: it gets the signals, and its end is the end.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};
use std::task::Poll;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::isatty;
use tokio::process::{Child as Process, Command};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use super::Complaint;

/// The program could not be started, as shells say it.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

pub(super) struct Child(Process);

/// What this process is sent while a program runs in its place.
pub(super) struct Forwarded(Vec<(Signal, Signals)>);

impl Child {
    /// `Err` has the exit code for a program that does not start.
    pub(super) fn start(command: &mut Command) -> Result<Self, (ExitCode, String)> {
        command.kill_on_drop(true).spawn().map(Self).map_err(|error| {
            let code = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
            let program = command.as_std().get_program().display();
            (ExitCode::from(code), format!("cannot run {program}: {error}"))
        })
    }

    /// May be dropped while it waits.
    pub(super) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.0.wait().await
    }

    /// What has ended already hears nothing.
    pub(super) fn send(&self, signal: Signal) {
        let pid = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }

    /// Asked to end, and made to after `grace`.
    pub(super) async fn stop(&mut self, grace: Duration) -> std::io::Result<ExitStatus> {
        self.send(Signal::TERM);
        match tokio::time::timeout(grace, self.0.wait()).await {
            Ok(ended) => ended,
            Err(_) => {
                self.0.start_kill()?;
                self.0.wait().await
            }
        }
    }
}

impl Forwarded {
    pub(super) fn listen() -> Result<Self, Complaint> {
        let mut signals = Vec::new();
        for (forwarded, kind) in [
            (Signal::TERM, SignalKind::terminate()),
            (Signal::HUP, SignalKind::hangup()),
            (Signal::USR1, SignalKind::user_defined1()),
            (Signal::USR2, SignalKind::user_defined2()),
            (Signal::INT, SignalKind::interrupt()),
            (Signal::QUIT, SignalKind::quit()),
        ] {
            signals.push((forwarded, signal(kind)?));
        }
        Ok(Self(signals))
    }

    /// The next signal that is the program's. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> Signal {
        loop {
            let signal = self.received().await;
            // A terminal has sent these to the program as well.
            if !(matches!(signal, Signal::INT | Signal::QUIT) && isatty(std::io::stdin())) {
                return signal;
            }
        }
    }

    /// The next, whoever it is meant for. May be dropped while it waits.
    pub(super) async fn received(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (signal, received) in &mut self.0 {
                if received.poll_recv(context).is_ready() {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// As a shell would say it.
pub(super) fn exit_code(ended: ExitStatus) -> ExitCode {
    let code = ended.code().unwrap_or_else(|| 128 + ended.signal().unwrap_or_default());
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

pub(super) fn ended_by(signal: Signal) -> ExitCode {
    exit_code(ExitStatus::from_raw(signal.as_raw()))
}
