//! A broker whose wall clock somebody sets: `skewed DIRECTORY`, where the file `skew` holds the milliseconds that it is
//! ahead, or behind with a minus.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a part of the suites")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use keyferry_broker::clock::{Clock, SystemClock, Timestamp};
use keyferry_broker::failpoints::NoFailpoints;
use keyferry_tests::broker::{load, start_broker};

#[derive(Debug, Default)]
struct SkewedClock {
    micros: AtomicI64,
}

impl SkewedClock {
    fn set(&self, directory: &Path) {
        let text = std::fs::read_to_string(directory.join("skew")).unwrap_or_default();
        self.micros.store(text.trim().parse().unwrap_or(0) * 1000, Ordering::Relaxed);
    }
}

impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(SystemClock.now().as_micros().saturating_add_signed(self.micros.load(Ordering::Relaxed)))
    }

    fn monotonic(&self) -> Instant {
        SystemClock.monotonic()
    }
}

#[tokio::main]
async fn main() {
    let directory = PathBuf::from(std::env::args().nth(1).expect("a directory"));
    let clock = Arc::new(SkewedClock::default());
    clock.set(&directory);
    let broker = start_broker(load(&directory), Arc::clone(&clock) as _, Arc::new(NoFailpoints)).await;
    eprintln!(r#"{{"grpc":"{}","admin":"{}"}}"#, broker.grpc_address(), broker.admin_address().unwrap());
    let follow = async {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            clock.set(&directory);
        }
    };
    tokio::select! {
        _ = broker.failed() => {}
        () = follow => {}
    }
}
