//! How a line is written: the body by whoever has something to say, its place in the chain by the writer.

use std::io::Write as _;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::audit::{Decision, Item, Record};
use crate::clock::Timestamp;
use crate::digest::Digest;

pub(super) type Hash = [u8; 32];

/// What a verifier reads at most; the writer stays below by bounding every text.
pub(super) const MAX_LINE: usize = 256 * 1024;

/// A batch's items end here; valid names keep the largest batch well below.
const MAX_ITEMS: usize = 128 * 1024;

/// Eight texts of this size, each byte escaped to six, and the items still make a line below [`MAX_LINE`].
const MAX_TEXT: usize = 2048;

/// The end of the chain: what the next line links to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) next: u64,
    pub(super) head: Hash,
}

impl Chain {
    pub(super) const GENESIS: Self = Self { next: 1, head: [0; 32] };

    /// The sequence number of the last line.
    pub(super) fn last(&self) -> u64 {
        self.next - 1
    }

    pub(super) fn append(&mut self, out: &mut Vec<u8>, body: &[u8]) {
        let start = out.len();
        out.extend_from_slice(b"{\"seq\":");
        push_number(out, self.next);
        out.extend_from_slice(b",\"prev\":\"");
        push_base64(out, &self.head);
        out.extend_from_slice(b"\",");
        out.extend_from_slice(body);
        let sum = crc32c::crc32c(&out[start..]);
        out.extend_from_slice(b",\"crc\":\"");
        push_hex(out, &sum.to_be_bytes());
        out.extend_from_slice(b"\"}");
        self.head = hash(&out[start..]);
        self.next += 1;
        out.push(b'\n');
    }
}

pub(super) fn hash(bytes: &[u8]) -> Hash {
    Digest::of(bytes).0
}

/// The members of a line between the link and the checksum.
///
/// Every name is a constant and every text is escaped here, so no value can end its string or its line.
#[derive(Debug)]
pub(super) struct Body<'a>(&'a mut Vec<u8>);

impl<'a> Body<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>, kind: &'static str, time: Timestamp, node: &str) -> Self {
        out.clear();
        out.extend_from_slice(b"\"kind\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"time\":\"");
        push_time(out, time);
        out.push(b'"');
        let mut body = Self(out);
        body.text("node", node);
        body
    }

    pub(super) fn text(&mut self, name: &'static str, value: &str) {
        self.name(name);
        self.0.push(b'"');
        push_text(self.0, value);
        self.0.push(b'"');
    }

    pub(super) fn number(&mut self, name: &'static str, value: u64) {
        self.name(name);
        push_number(self.0, value);
    }

    pub(super) fn time(&mut self, name: &'static str, value: Timestamp) {
        self.name(name);
        self.0.push(b'"');
        push_time(self.0, value);
        self.0.push(b'"');
    }

    pub(super) fn base64(&mut self, name: &'static str, value: &[u8]) {
        self.name(name);
        self.0.push(b'"');
        push_base64(self.0, value);
        self.0.push(b'"');
    }

    /// A text that is left out where it is empty.
    fn word(&mut self, name: &'static str, value: &str) {
        if !value.is_empty() {
            self.text(name, value);
        }
    }

    fn decision(&mut self, decision: Decision) {
        match decision {
            Decision::None => {}
            Decision::Allow => self.text("decision", "allow"),
            Decision::Deny => self.text("decision", "deny"),
        }
    }

    fn items(&mut self, items: &[Item]) {
        self.name("items");
        let mut written = 0;
        for item in items {
            if self.0.len() >= MAX_ITEMS {
                break;
            }
            self.0.extend_from_slice(if written == 0 { b"[{\"resource\":\"" } else { b",{\"resource\":\"" });
            push_text(self.0, &item.resource);
            self.0.push(b'"');
            self.word("version", item.version.as_deref().unwrap_or_default());
            self.decision(item.decision);
            self.word("outcome", item.outcome);
            self.word("source", item.source);
            self.0.push(b'}');
            written += 1;
        }
        self.0.push(b']');
        if written < items.len() {
            self.number("items_left_out", (items.len() - written) as u64);
        }
    }

    fn hex(&mut self, name: &'static str, value: &[u8]) {
        self.name(name);
        self.0.push(b'"');
        push_hex(self.0, value);
        self.0.push(b'"');
    }

    fn name(&mut self, name: &'static str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }
}

/// The body of a call's line; what is absent is left out.
pub(super) fn call(out: &mut Vec<u8>, record: &Record, now: Timestamp, node: &str) {
    let mut body = Body::begin(out, "call", record.time.unwrap_or(now), node);
    body.hex("request", &record.request_id.to_be_bytes());
    if record.trace_id != 0 {
        body.hex("trace", &record.trace_id.to_be_bytes());
    }
    if let Some(peer) = record.peer {
        body.name("peer");
        push_peer(body.0, peer.ip().to_canonical(), peer.port());
    }
    if let Some(caller) = &record.caller {
        body.text("caller", caller);
    }
    if let Some(certificate) = &record.certificate {
        body.hex("certificate", &certificate.0);
    }
    if let Some(token) = &record.token {
        body.hex("token", &token.0);
    }
    body.word("protocol", record.protocol);
    body.word("method", record.method);
    body.word("action", record.action);
    body.word("resource", record.resource.as_deref().unwrap_or_default());
    body.word("version", record.version.as_deref().unwrap_or_default());
    body.decision(record.decision);
    if let Some(policy) = &record.policy {
        // Half of the hash names a policy set beyond doubt and keeps the line short.
        body.hex("policy", &policy.0[..16]);
    }
    body.word("outcome", record.outcome);
    body.word("source", record.source);
    if !record.items.is_empty() {
        body.items(&record.items);
    }
    body.word("lease", record.lease.as_deref().unwrap_or_default());
    body.word("credential", record.credential.as_deref().unwrap_or_default());
    body.number("latency_us", u64::try_from(record.latency.as_micros()).unwrap_or(u64::MAX));
}

fn push_text(out: &mut Vec<u8>, value: &str) {
    let (value, cut) =
        if value.len() <= MAX_TEXT { (value, false) } else { (&value[..value.floor_char_boundary(MAX_TEXT)], true) };
    if value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
        out.extend_from_slice(value.as_bytes());
    } else {
        for character in value.chars() {
            push_escaped(out, character);
        }
    }
    if cut {
        out.extend_from_slice("…".as_bytes());
    }
}

fn push_escaped(out: &mut Vec<u8>, character: char) {
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        // Beyond what JSON asks: other line separators, and marks that make a viewer show another order.
        '\u{0}'..='\u{1f}'
        | '\u{7f}'..='\u{9f}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => {
            out.extend_from_slice(b"\\u");
            // All of these lie in the basic plane.
            let code = u16::try_from(u32::from(character)).unwrap_or(0xfffd);
            push_hex(out, &code.to_be_bytes());
        }
        _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

fn push_peer(out: &mut Vec<u8>, ip: IpAddr, port: u16) {
    out.push(b'"');
    match ip {
        IpAddr::V4(ip) => {
            for (index, octet) in ip.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                push_number(out, u64::from(octet));
            }
        }
        IpAddr::V6(ip) => {
            // Writing to a vector cannot fail.
            let _ = write!(out, "[{ip}]");
        }
    }
    out.push(b':');
    push_number(out, u64::from(port));
    out.push(b'"');
}

fn push_number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // In one piece each: byte by byte, the digests would be a tenth of what a record costs.
    for part in bytes.chunks(32) {
        let mut digits = [0; 64];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(part) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        out.extend_from_slice(&digits[..part.len() * 2]);
    }
}

fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = URL_SAFE_NO_PAD.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
}

/// RFC 3339 in UTC with microseconds, as `Timestamp`'s `Display` writes it, without its generality.
fn push_time(out: &mut Vec<u8>, time: Timestamp) {
    let seconds = time.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    let digits = |out: &mut Vec<u8>, value: u64, width: u32| {
        for place in (0..width).rev() {
            out.push(b'0' + (value / 10_u64.pow(place) % 10) as u8);
        }
    };
    digits(out, year, 4);
    out.push(b'-');
    digits(out, month, 2);
    out.push(b'-');
    digits(out, day, 2);
    out.push(b'T');
    digits(out, of_day / 3600, 2);
    out.push(b':');
    digits(out, of_day / 60 % 60, 2);
    out.push(b':');
    digits(out, of_day % 60, 2);
    out.push(b'.');
    digits(out, time.as_micros() % 1_000_000, 6);
    out.push(b'Z');
}

/// Year, month and day of a day since 1970, counted in 400-year eras that begin on the first of March.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = shifted / 146_097 * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// The parts of a line that make it a link: read back by recovery and verification.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) prev: Hash,
}

/// Reads a line's link if its checksum holds; `None` says that the line is not as it was written.
pub(super) fn parse_link(line: &[u8]) -> Option<Link> {
    let (rest, tail) = line.split_at_checked(line.len().checked_sub(18)?)?;
    let sum = tail.strip_prefix(b",\"crc\":\"")?.strip_suffix(b"\"}")?;
    let mut expected = Vec::with_capacity(8);
    push_hex(&mut expected, &crc32c::crc32c(rest).to_be_bytes());
    if sum != expected {
        return None;
    }
    let rest = rest.strip_prefix(b"{\"seq\":")?;
    let comma = rest.iter().position(|byte| *byte == b',')?;
    let digits = std::str::from_utf8(&rest[..comma]).ok()?;
    // One spelling per number, as the writer has it.
    if digits.starts_with('0') || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seq = digits.parse().ok()?;
    let prev = rest[comma..].strip_prefix(b",\"prev\":\"")?.get(..43)?;
    let prev = URL_SAFE_NO_PAD.decode(prev).ok()?.try_into().ok()?;
    Some(Link { seq, prev })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(micros: u64) -> String {
        let mut out = Vec::new();
        push_time(&mut out, Timestamp::from_micros(micros));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        let mut micros = 0;
        while micros < 7_000_000_000_000_000 {
            assert_eq!(time(micros), Timestamp::from_micros(micros).to_string());
            micros += 86_399_999_999 * 13 + 7;
        }
        for leap in [951_782_399_999_999, 951_782_400_000_000, 1_709_164_800_000_000, 4_107_542_400_000_000] {
            assert_eq!(time(leap), Timestamp::from_micros(leap).to_string());
        }
    }

    #[test]
    fn no_text_can_leave_its_string() {
        let nasty: String = (0..0x3000).chain(0xfff0..0x1_0010).chain([0x10_ffff]).filter_map(char::from_u32).collect();
        for chunk in nasty.chars().collect::<Vec<_>>().chunks(200) {
            let text: String = chunk.iter().collect();
            let mut out = b"\"".to_vec();
            push_text(&mut out, &text);
            out.push(b'"');
            assert!(!out.iter().any(|byte| *byte < 0x20));
            let back: String = serde_json::from_slice(&out).unwrap();
            assert_eq!(back, text);
            let shown = String::from_utf8(out).unwrap();
            assert!(!shown.chars().any(|c| c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c)));
        }
    }

    #[test]
    fn the_longest_record_stays_below_the_verifiers_bound() {
        let long: std::sync::Arc<str> = "\u{1}".repeat(100_000).into();
        let item = Item {
            resource: long.clone(),
            version: Some(long.clone()),
            decision: Decision::Deny,
            outcome: "DENIED",
            source: "CACHE",
        };
        let record = Record {
            caller: Some(long.clone()),
            resource: Some(long.clone()),
            version: Some(long.clone()),
            lease: Some(long.clone()),
            certificate: Some(Digest([1; 32])),
            token: Some(Digest([1; 32])),
            policy: Some(Digest([1; 32])),
            items: vec![item; 100],
            ..Record::default()
        };
        let mut body = Vec::new();
        call(&mut body, &record, Timestamp::from_micros(0), &long);
        let mut line = Vec::new();
        let mut chain = Chain::GENESIS;
        chain.append(&mut line, &body);
        assert!(line.len() < MAX_LINE, "{}", line.len());
        assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok());
    }

    #[test]
    fn a_link_is_read_back_only_as_it_was_written() {
        let mut body = Vec::new();
        call(&mut body, &Record::default(), Timestamp::from_micros(1), "n");
        let mut line = Vec::new();
        let mut chain = Chain { next: 41, head: [7; 32] };
        chain.append(&mut line, &body);
        line.pop();
        let link = parse_link(&line).unwrap();
        assert_eq!((link.seq, link.prev, chain.next), (41, [7; 32], 42));
        for bit in 0..line.len() * 8 {
            let mut flipped = line.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(parse_link(&flipped).is_none(), "bit {bit}");
        }
    }
}
