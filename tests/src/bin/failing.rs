//! A broker that kills itself when it reaches a certain step of a lease or a rotation: `failing DIRECTORY POINT`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a part of the suites")]

use std::path::PathBuf;
use std::sync::Arc;

use keyferry_broker::clock::SystemClock;
use keyferry_broker::failpoints::{Failpoints, Point};
use keyferry_tests::broker::{load, start_broker};
use rustix::process::{Signal, getpid, kill_process};

#[derive(Debug)]
struct KillAt(Point);

impl Failpoints for KillAt {
    fn reach(&self, point: Point) {
        if point == self.0 {
            kill_process(getpid(), Signal::KILL).unwrap();
        }
    }
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().expect("a directory"));
    let wanted = arguments.next().expect("a point");
    let point = Point::OF_LEASES
        .into_iter()
        .chain(Point::OF_ROTATIONS)
        .find(|point| format!("{point:?}") == wanted)
        .expect("a point that there is");
    let broker = start_broker(load(&directory), Arc::new(SystemClock), Arc::new(KillAt(point))).await;
    eprintln!(r#"{{"grpc":"{}","admin":"{}"}}"#, broker.grpc_address(), broker.admin_address().unwrap());
    broker.failed().await;
}
