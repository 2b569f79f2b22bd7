//! Frames by the thousand.

use std::io;

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
    head, text,
};
use super::peer::{Peer, Target};

const READ: &str = "/keyferry.v1.SecretService/GetSecret";
const AT_ONCE: usize = 500;
const CANCEL: u32 = 8;
const UNKNOWN: u8 = 0x77;
/// The entry of HPACK's dynamic table that was added last.
const NEWEST: u8 = 0x80 | 62;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// A call and its reset, as fast as they can be written.
    RapidReset,
    /// Calls that break a rule, so that it is the broker who resets them.
    ProvokedReset,
    /// More calls at once than a connection may have.
    TooManyCalls,
    /// Headers that go on for ever.
    Continuations,
    /// Headers that are small on the wire and large when decoded.
    HeaderBomb,
    Pings,
    Settings,
    Priorities,
    WindowUpdates,
    /// Data without any bytes.
    EmptyData,
    UnknownFrames,
    /// Pings at the port that asks for no certificate.
    WebPings,
}

impl Flood {
    pub const ALL: [Self; 12] = [
        Self::RapidReset,
        Self::ProvokedReset,
        Self::TooManyCalls,
        Self::Continuations,
        Self::HeaderBomb,
        Self::Pings,
        Self::Settings,
        Self::Priorities,
        Self::WindowUpdates,
        Self::EmptyData,
        Self::UnknownFrames,
        Self::WebPings,
    ];

    /// Until the broker ends the connection.
    pub(super) async fn carry_out(self, target: &Target, began: impl FnOnce()) -> io::Result<()> {
        let at_the_web_port = self == Self::WebPings;
        let mut peer = if at_the_web_port { target.stranger().await? } else { target.caller(65_535).await? };
        began();
        if self == Self::Continuations {
            peer.send(&frame(HEADERS, 0, 1, &head(READ, "application/grpc"))).await?;
        }
        let mut calls = 0..;
        loop {
            let frames: Vec<u8> = calls.by_ref().take(AT_ONCE).flat_map(|call| self.frames(call)).collect();
            send(&mut peer, &frames).await?;
        }
    }

    /// The next few, which are of one call where they are of a call at all.
    fn frames(self, call: u32) -> Vec<u8> {
        let stream = 2 * call + 1;
        let begun = || frame(HEADERS, END_HEADERS, stream, &head(READ, "application/grpc"));
        match self {
            Self::RapidReset => [begun(), frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())].concat(),
            Self::ProvokedReset => [begun(), frame(WINDOW_UPDATE, 0, stream, &i32::MAX.to_be_bytes())].concat(),
            Self::TooManyCalls => begun(),
            Self::Continuations => frame(CONTINUATION, 0, 1, &[&[0][..], &text("x"), &text("y")].concat()),
            Self::HeaderBomb => {
                // A header of 4,000 bytes is kept, and then meant thousands of times by a byte each.
                let kept = [&[0x40][..], &text("x"), &[0x7f, 0xa1, 0x1e], &[b'x'; 4_000]].concat();
                let meant = vec![NEWEST; if call == 0 { 12_000 } else { 16_000 }];
                let block = if call == 0 { [kept, meant].concat() } else { meant };
                frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
            }
            Self::Settings => frame(SETTINGS, 0, 0, &[]),
            Self::Priorities => frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]),
            Self::WindowUpdates => frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
            Self::EmptyData if call == 0 => begun(),
            Self::EmptyData => frame(DATA, 0, 1, &[]),
            Self::UnknownFrames => frame(UNKNOWN, 0, 0, &[0; 8]),
            Self::Pings | Self::WebPings => frame(PING, 0, 0, &[0; 8]),
        }
    }
}

async fn send(peer: &mut Peer, frames: &[u8]) -> io::Result<()> {
    peer.send(frames).await?;
    // One thread has many floods to carry out.
    tokio::task::yield_now().await;
    Ok(())
}
