//! HTTP/2 as a load generator needs it: the same call on stream after stream, its frames made once.
//!
//! A general client costs as much as the server that it is to measure, and so its own limits would be what is measured.

use std::collections::VecDeque;

use super::request::Request;
use super::{Answer, Peer};
use crate::Outcome;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const INITIAL_WINDOW_SIZE: u16 = 4;
const LARGEST_WINDOW: u32 = (1 << 31) - 1;
const DEFAULT_WINDOW: u32 = 65_535;
/// The server's window is given back long before it could close.
const REFILL: u32 = 1 << 29;
/// `:status: 200` of HPACK's static table, which all servers send first.
const STATUS_200: u8 = 0x88;
/// Below what servers allow on one connection. So many small requests never fill a server's receive window either.
const STREAMS: usize = 100;

pub(super) struct Http2 {
    /// The first call's header block teaches the server what the later ones refer to.
    block: Vec<u8>,
    later_block: Vec<u8>,
    body: Vec<u8>,
    payload: usize,
    next_stream: u32,
    /// Of the streams that end before `next_stream`, in order; the answered ones leave from the front.
    calls: VecDeque<Call>,
    open: usize,
    received: u32,
}

struct Call {
    since: u64,
    is_200: bool,
    length: usize,
    is_over: bool,
}

impl Http2 {
    /// With what opens the connection.
    pub(super) fn new(request: &Request, authority: &str, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(PREFACE);
        let window = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &LARGEST_WINDOW.to_be_bytes()].concat();
        frame(out, SETTINGS, 0, 0, &window);
        frame(out, WINDOW_UPDATE, 0, 0, &(LARGEST_WINDOW - DEFAULT_WINDOW).to_be_bytes());
        let (block, later_block) = header_blocks(request, authority);
        Self {
            block,
            later_block,
            body: request.body.clone(),
            payload: request.payload,
            next_stream: 1,
            calls: VecDeque::new(),
            open: 0,
            received: 0,
        }
    }

    fn take_frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        out: &mut Vec<u8>,
        answers: &mut Vec<Answer>,
    ) -> Outcome<()> {
        match kind {
            DATA | HEADERS | RST_STREAM => {
                let first = self.next_stream - 2 * u32::try_from(self.calls.len())?;
                let index = stream.checked_sub(first).ok_or("a frame of a stream that had ended")? / 2;
                let call = self.calls.get_mut(index as usize).ok_or("a frame of a stream that was not opened")?;
                match kind {
                    DATA => {
                        call.length += payload.len();
                        self.received += u32::try_from(payload.len())?;
                    }
                    HEADERS => call.is_200 |= payload.first() == Some(&STATUS_200),
                    _ => call.is_200 = false,
                }
                if kind == RST_STREAM || flags & END_STREAM != 0 {
                    call.is_over = true;
                    self.open -= 1;
                    // A gRPC error is a 200 without a message.
                    let is_right = call.is_200 && call.length >= self.payload;
                    answers.push(Answer { since: call.since, is_right });
                    while self.calls.front().is_some_and(|call| call.is_over) {
                        self.calls.pop_front();
                    }
                }
            }
            SETTINGS if flags & ACK == 0 => frame(out, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(out, PING, ACK, 0, payload),
            GOAWAY => return Err(format!("the server ends a connection: {payload:02x?}").into()),
            _ => {}
        }
        Ok(())
    }
}

impl Peer for Http2 {
    fn places(&self) -> usize {
        STREAMS - self.open
    }

    fn ask(&mut self, since: u64, out: &mut Vec<u8>) {
        let block = if self.next_stream == 1 { &self.block } else { &self.later_block };
        let end = if self.body.is_empty() { END_STREAM } else { 0 };
        frame(out, HEADERS, END_HEADERS | end, self.next_stream, block);
        if !self.body.is_empty() {
            frame(out, DATA, END_STREAM, self.next_stream, &self.body);
        }
        self.calls.push_back(Call { since, is_200: false, length: 0, is_over: false });
        self.open += 1;
        self.next_stream += 2;
    }

    fn hear(&mut self, heard: &[u8], out: &mut Vec<u8>, answers: &mut Vec<Answer>) -> Outcome<usize> {
        let mut rest = heard;
        while let Some((&[a, b, c, kind, flags, s, t, u, v], after)) = rest.split_first_chunk::<FRAME_HEAD>() {
            let Some((payload, after)) = after.split_at_checked(u32::from_be_bytes([0, a, b, c]) as usize) else {
                break;
            };
            let stream = u32::from_be_bytes([s, t, u, v]) & LARGEST_WINDOW;
            self.take_frame(kind, flags, stream, payload, out, answers)?;
            rest = after;
        }
        if self.received >= REFILL {
            frame(out, WINDOW_UPDATE, 0, 0, &self.received.to_be_bytes());
            self.received = 0;
        }
        Ok(heard.len() - rest.len())
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, a, b, c] = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// HPACK (RFC 7541): first all literally, to be remembered by the server; then by the numbers that they have from then on.
fn header_blocks(request: &Request, authority: &str) -> (Vec<u8>, Vec<u8>) {
    // Of the static table: `:scheme: https`, and the method.
    let known = [0x87, if request.method == "GET" { 0x82 } else { 0x83 }];
    let (mut first, mut later) = (known.to_vec(), known.to_vec());
    let mut fields = vec![(":path", request.path.as_str()), (":authority", authority)];
    fields.extend(request.headers.iter().map(|(name, value)| (*name, value.as_str())));
    for (index, (name, value)) in fields.iter().enumerate() {
        first.push(0x40);
        string(&mut first, name);
        string(&mut first, value);
        // The newest is 62.
        let number = 62 + fields.len() - 1 - index;
        later.push(0x80 | u8::try_from(number).expect("few headers"));
    }
    (first, later)
}

fn string(out: &mut Vec<u8>, text: &str) {
    let mut left = text.len();
    if left < 127 {
        out.push(left as u8);
    } else {
        out.push(127);
        left -= 127;
        while left >= 128 {
            out.push(left as u8 | 0x80);
            left >>= 7;
        }
        out.push(left as u8);
    }
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYLOAD: usize = 3;

    fn asked(calls: u64) -> (Http2, Vec<u8>) {
        let mut out = Vec::new();
        let request = Request::grpc("/s/m", b"", Some(&"t".repeat(300)), PAYLOAD);
        let mut peer = Http2::new(&request, "localhost", &mut out);
        out.clear();
        for since in 0..calls {
            peer.ask(since, &mut out);
        }
        out.clear();
        (peer, out)
    }

    fn answer(stream: u32, status: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        if body.is_empty() {
            frame(&mut bytes, HEADERS, END_HEADERS | END_STREAM, stream, &[status]);
        } else {
            frame(&mut bytes, HEADERS, END_HEADERS, stream, &[status]);
            frame(&mut bytes, DATA, 0, stream, body);
            frame(&mut bytes, HEADERS, END_HEADERS | END_STREAM, stream, b"\xbe");
        }
        bytes
    }

    #[test]
    fn answers_out_of_order_and_in_pieces_are_those_of_their_calls() {
        let (mut peer, mut out) = asked(3);
        let bytes =
            [answer(5, STATUS_200, b"abc"), answer(1, STATUS_200, b"abc"), answer(3, STATUS_200, b"abc")].concat();
        let (mut answers, mut heard, mut taken) = (Vec::new(), Vec::new(), 0);
        for byte in bytes {
            heard.push(byte);
            taken += peer.hear(&heard[taken..], &mut out, &mut answers).unwrap();
        }
        let order: Vec<_> = answers.iter().map(|answer| (answer.since, answer.is_right)).collect();
        assert_eq!((order, peer.places(), out.len()), (vec![(2, true), (0, true), (1, true)], STREAMS, 0));
    }

    #[test]
    fn another_status_a_missing_message_and_a_reset_are_wrong() {
        let mut reset = Vec::new();
        frame(&mut reset, RST_STREAM, 0, 1, &[0, 0, 0, 7]);
        for bytes in [answer(1, 0x8d, b"abc"), answer(1, STATUS_200, b""), answer(1, STATUS_200, b"ab"), reset] {
            let (mut peer, mut out) = asked(1);
            let mut answers = Vec::new();
            peer.hear(&bytes, &mut out, &mut answers).unwrap();
            assert_eq!(answers, [Answer { since: 0, is_right: false }]);
        }
    }

    #[test]
    fn settings_and_pings_are_acknowledged_and_a_goaway_ends_it() {
        let (mut peer, mut out) = asked(0);
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        frame(&mut bytes, SETTINGS, 0, 0, &[]);
        frame(&mut bytes, PING, 0, 0, b"12345678");
        frame(&mut expected, SETTINGS, ACK, 0, &[]);
        frame(&mut expected, PING, ACK, 0, b"12345678");
        peer.hear(&bytes, &mut out, &mut Vec::new()).unwrap();
        assert_eq!(out, expected);
        bytes.clear();
        frame(&mut bytes, GOAWAY, 0, 0, &[0; 8]);
        peer.hear(&bytes, &mut out, &mut Vec::new()).unwrap_err();
    }
}
