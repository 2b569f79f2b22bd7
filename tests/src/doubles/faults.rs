//! What goes wrong with a cloud, switched on from the outside while a double serves.

use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 429, with `Retry-After` where one is given.
    Throttle { retry_after: Option<Duration> },
    /// This HTTP status, in the cloud's own form of an error.
    Status(u16),
    /// This HTTP status with a page, as from a proxy in front of the cloud.
    Bare(u16),
    /// The request is read and never answered.
    BlackHole,
    /// The head of the answer arrives, its body never does.
    SlowBody,
    /// The connection breaks in the middle of the body.
    TruncatedBody,
    /// 200 with a body that is none of the API's.
    Garbage,
    /// A value does not match its checksum.
    WrongCrc,
    /// 500, quoting the answer that should have been given.
    Spill,
}

/// The switch. Clones are the same switch.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Option<Active>>>);

#[derive(Clone, Copy, Debug)]
struct Active {
    fault: Fault,
    /// For so many requests; without it, until cleared.
    left: Option<usize>,
}

impl Faults {
    pub fn set(&self, fault: Fault) {
        *self.0.lock().unwrap() = Some(Active { fault, left: None });
    }

    /// For the next `count` requests only.
    pub fn set_for(&self, fault: Fault, count: usize) {
        *self.0.lock().unwrap() = Some(Active { fault, left: Some(count) });
    }

    pub fn clear(&self) {
        *self.0.lock().unwrap() = None;
    }

    /// What the next request would meet.
    pub fn current(&self) -> Option<Fault> {
        self.0.lock().unwrap().filter(|active| active.left != Some(0)).map(|active| active.fault)
    }

    /// What befalls the request that asks: each request asks once.
    pub fn next(&self) -> Option<Fault> {
        let mut active = self.0.lock().unwrap();
        let Active { fault, left } = active.as_mut()?;
        let fault = *fault;
        match left {
            None => return Some(fault),
            Some(0) => *active = None,
            Some(left) => {
                *left -= 1;
                return Some(fault);
            }
        }
        None
    }
}
