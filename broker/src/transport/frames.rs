//! How many HTTP/2 frames a peer may send that neither make a call nor carry a good piece of one. The protocol bounds
//! none of them: pings, settings, priorities, window updates, resets, crumbs of data and frames of unknown types cost
//! the sender a few bytes and the broker a look at each, faster than it would ever run out of work.

use std::time::{Duration, Instant};

use crate::clock::SharedClock;

/// An honest peer sends a few for each call, and a few for each message of a stream.
const PER_CALL: u32 = 8;
const PER_SECOND: u32 = 1_000;
/// What it may have saved up, as for a thousand calls that are given up at once.
const SAVED: u32 = 10_000;
/// Data in smaller pieces than this, but for a message's last, counts as crumbs.
const CRUMB: usize = 256;

const PREFACE: usize = 24;
const HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

/// Follows one connection's frames as they arrive.
#[derive(Debug)]
pub(super) struct FrameMeter {
    clock: SharedClock,
    /// Of the preface, or of a frame's payload, still to come.
    skip: usize,
    header: [u8; HEADER],
    /// Bytes of `header` that have come.
    have: usize,
    left: u32,
    filled: Instant,
}

/// The peer has sent more such frames than it may.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer floods its connection with frames that ask for nothing")]
pub(super) struct Flooded;

impl FrameMeter {
    pub(super) fn new(clock: SharedClock) -> Self {
        let filled = clock.monotonic();
        Self { clock, skip: PREFACE, header: [0; HEADER], have: 0, left: SAVED, filled }
    }

    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<(), Flooded> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let some = bytes.len().min(HEADER - self.have);
            let (begin, rest) = bytes.split_at(some);
            self.header[self.have..self.have + some].copy_from_slice(begin);
            self.have += some;
            if self.have < HEADER {
                return Ok(());
            }
            bytes = rest;
            self.have = 0;
            let [high, middle, low, kind, flags, ..] = self.header;
            self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
            self.weigh(kind, flags)?;
        }
    }

    fn weigh(&mut self, kind: u8, flags: u8) -> Result<(), Flooded> {
        match kind {
            HEADERS => self.left = SAVED.min(self.left + PER_CALL),
            DATA if flags & END_STREAM != 0 || self.skip >= CRUMB => {}
            _ => {
                if self.left == 0 {
                    self.refill();
                }
                self.left = self.left.checked_sub(1).ok_or(Flooded)?;
            }
        }
        Ok(())
    }

    /// Reads the clock only where everything is used up, which of honest peers hardly any comes to.
    fn refill(&mut self) {
        let now = self.clock.monotonic();
        let since = now.saturating_duration_since(self.filled);
        let earned = since.as_micros() * u128::from(PER_SECOND) / Duration::from_secs(1).as_micros();
        self.left = u32::try_from(earned).map_or(SAVED, |earned| earned.min(SAVED));
        self.filled = now;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::clock::{Clock, SystemClock, Timestamp};

    const PING: u8 = 6;
    const SETTINGS: u8 = 4;
    const WINDOW_UPDATE: u8 = 8;
    const UNKNOWN: u8 = 0x77;

    #[derive(Debug)]
    struct Stopwatch(Mutex<Instant>);

    impl Clock for Stopwatch {
        fn now(&self) -> Timestamp {
            Timestamp::from_secs(0)
        }

        fn monotonic(&self) -> Instant {
            *self.0.lock().unwrap()
        }
    }

    fn meter() -> (FrameMeter, Arc<Stopwatch>) {
        let watch = Arc::new(Stopwatch(Mutex::new(SystemClock.monotonic())));
        let mut meter = FrameMeter::new(watch.clone());
        meter.take(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        (meter, watch)
    }

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let length_bytes = u32::try_from(length).unwrap().to_be_bytes();
        let mut frame = vec![length_bytes[1], length_bytes[2], length_bytes[3], kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER + length, 0xff);
        frame
    }

    fn sent(meter: &mut FrameMeter, frame: &[u8], times: u32) -> Result<(), Flooded> {
        (0..times).try_for_each(|_| meter.take(frame))
    }

    #[test]
    fn a_flood_of_any_frame_that_asks_for_nothing_is_noticed() {
        for kind in [PING, SETTINGS, WINDOW_UPDATE, UNKNOWN, DATA] {
            let (mut meter, _) = meter();
            let frame = frame(kind, 0, 8);
            assert_eq!(sent(&mut meter, &frame, SAVED), Ok(()), "{kind}");
            assert_eq!(meter.take(&frame), Err(Flooded), "{kind}");
        }
    }

    #[test]
    fn calls_and_what_belongs_to_them_are_never_a_flood() {
        let (mut meter, _) = meter();
        for _ in 0..SAVED {
            meter.take(&frame(HEADERS, 4, 40)).unwrap();
            meter.take(&frame(DATA, END_STREAM, 5)).unwrap();
            meter.take(&frame(DATA, 0, CRUMB)).unwrap();
            sent(&mut meter, &frame(WINDOW_UPDATE, 0, 4), PER_CALL).unwrap();
        }
    }

    #[test]
    fn what_is_used_up_comes_back_with_time_and_does_not_pile_up() {
        for (after, earned) in [(Duration::from_secs(1), PER_SECOND), (Duration::from_hours(1), SAVED)] {
            let (mut meter, watch) = meter();
            let ping = frame(PING, 0, 8);
            sent(&mut meter, &ping, SAVED).unwrap();
            *watch.0.lock().unwrap() += after;
            assert_eq!(sent(&mut meter, &ping, earned), Ok(()));
            assert_eq!(meter.take(&ping), Err(Flooded));
        }
    }

    #[test]
    fn frames_are_told_apart_however_their_bytes_arrive() {
        let stream = [frame(HEADERS, 4, 40), frame(DATA, 0, 3), frame(PING, 0, 8), frame(DATA, END_STREAM, 0)].concat();
        for piece in 1..stream.len() {
            let (mut meter, _) = meter();
            sent(&mut meter, &frame(PING, 0, 8), 100).unwrap();
            stream.chunks(piece).for_each(|bytes| meter.take(bytes).unwrap());
            assert_eq!(
                (meter.left, meter.have, meter.skip),
                (SAVED - 100 + PER_CALL - 2, 0, 0),
                "in pieces of {piece}"
            );
        }
    }
}
