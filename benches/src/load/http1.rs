//! HTTP/1.1 as a load generator needs it: one call at a time, its bytes made once.

use super::request::Request;
use super::{Answer, Peer};
use crate::Outcome;

pub(super) struct Http1 {
    bytes: Vec<u8>,
    payload: usize,
    since: Option<u64>,
}

impl Http1 {
    pub(super) fn new(request: &Request, authority: &str) -> Self {
        let mut text = format!("{} {} HTTP/1.1\r\nhost: {authority}\r\n", request.method, request.path);
        for (name, value) in &request.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        Self { bytes: [text.as_bytes(), &request.body].concat(), payload: request.payload, since: None }
    }
}

impl Peer for Http1 {
    fn places(&self) -> usize {
        usize::from(self.since.is_none())
    }

    fn ask(&mut self, since: u64, out: &mut Vec<u8>) {
        self.since = Some(since);
        out.extend_from_slice(&self.bytes);
    }

    fn hear(&mut self, heard: &[u8], _: &mut Vec<u8>, answers: &mut Vec<Answer>) -> Outcome<usize> {
        let Some(head) = heard.windows(4).position(|end| end == b"\r\n\r\n") else { return Ok(0) };
        let text = std::str::from_utf8(&heard[..head])?.to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.ok_or("an answer that does not tell its length")?.parse()?;
        let end = head + 4 + length;
        if heard.len() < end {
            return Ok(0);
        }
        let since = self.since.take().ok_or("an answer that nobody asked for")?;
        answers.push(Answer { since, is_right: text.starts_with("http/1.1 200 ") && length >= self.payload });
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_once_it_is_whole_and_right_only_with_200_and_its_payload() {
        for (answer, is_right) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", false),
            ("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nabc", false),
        ] {
            let mut peer = Http1::new(&Request::get("/", ("x-token", "t".to_owned()), 3), "localhost");
            let (mut out, mut answers) = (Vec::new(), Vec::new());
            peer.ask(7, &mut out);
            assert_eq!(
                (peer.places(), out.as_slice()),
                (0, &b"GET / HTTP/1.1\r\nhost: localhost\r\nx-token: t\r\n\r\n"[..])
            );
            assert_eq!(peer.hear(&answer.as_bytes()[..answer.len() - 1], &mut out, &mut answers).unwrap(), 0);
            assert_eq!(peer.hear(answer.as_bytes(), &mut out, &mut answers).unwrap(), answer.len());
            assert_eq!(answers, [Answer { since: 7, is_right }]);
        }
    }
}
