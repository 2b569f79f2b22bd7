//! HTTP/2 as bytes, for peers that do with it what no client library would.

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

const INITIAL_WINDOW_SIZE: u16 = 4;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![high, middle, low, kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// How a connection begins, with the window that the peer leaves for each answer.
pub(super) fn preface(window: u32) -> Vec<u8> {
    let setting = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &window.to_be_bytes()].concat();
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &setting)].concat()
}

/// A call's header block: names and values plain, or by their number in HPACK's static table.
pub(super) fn head(path: &str, content_type: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x87];
    for (name, value) in [(&[0x04][..], path), (&[0x01], "keyferry.test"), (&[0x0f, 0x10], content_type)] {
        block.extend_from_slice(name);
        block.extend_from_slice(&text(value));
    }
    block.push(0);
    block.extend_from_slice(&[text("te"), text("trailers")].concat());
    block
}

/// A literal without Huffman's coding, of less than 127 bytes.
pub(super) fn text(value: &str) -> Vec<u8> {
    [&[u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
}

/// A message in gRPC's frame, which may claim to be longer than it is.
pub(super) fn message(claimed: usize, bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(claimed).unwrap().to_be_bytes(), bytes].concat()
}
