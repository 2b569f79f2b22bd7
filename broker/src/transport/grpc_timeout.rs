//! The `grpc-timeout` header: one to eight digits and a unit.

use std::time::Duration;

use http::HeaderMap;

use crate::error::{Failure, Reason};

pub(crate) fn parse(headers: &HeaderMap) -> Result<Option<Duration>, Failure> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    read(value.as_bytes()).map(Some).ok_or_else(|| {
        let description = "is not 1 to 8 digits followed by one of H, M, S, m, u or n";
        Failure::bad_field(Reason::InvalidArgument, "grpc-timeout", description)
    })
}

fn read(value: &[u8]) -> Option<Duration> {
    let (&unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0, |amount: u64, digit| amount * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_specification_allows_and_nothing_else() {
        assert_eq!(read(b"1H"), Some(Duration::from_secs(3600)));
        assert_eq!(read(b"250m"), Some(Duration::from_millis(250)));
        assert_eq!(read(b"99999999S"), Some(Duration::from_secs(99_999_999)));
        for bad in [&b""[..], b"S", b"1", b"-1S", b"1.5S", b"123456789S", b"1s", b" 1S", b"1S "] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}
