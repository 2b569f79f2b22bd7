//! The parser copies a string that has an escape to memory that nobody zeroes. Base64 needs none, and yet some write its
//! `/` as `\/`; so what is escaped without need is written as itself first, in the place where it is.

/// Returns how long the text is then.
pub(super) fn undo(json: &mut [u8]) -> usize {
    let Some(first) = json.iter().position(|byte| *byte == b'\\') else { return json.len() };
    let mut is_inside = json[..first].iter().filter(|byte| **byte == b'"').count() % 2 == 1;
    let (mut from, mut to) = (first, first);
    while let Some(rest) = json.get(from..).filter(|rest| !rest.is_empty()) {
        let (length, itself) = match rest {
            [b'\\', b'/', ..] if is_inside => (2, Some(b'/')),
            [b'\\', b'u', digits @ ..] if is_inside => match plain(digits) {
                Some(plain) => (6, Some(plain)),
                None => (2, None),
            },
            [b'\\', _, ..] if is_inside => (2, None),
            [byte, ..] => {
                is_inside ^= *byte == b'"';
                (1, None)
            }
            [] => break,
        };
        match itself {
            Some(itself) => json[to] = itself,
            None => json.copy_within(from..from + length, to),
        }
        to += itself.map_or(length, |_| 1);
        from += length;
    }
    to
}

/// What four hexadecimal digits mean, if that may stand in a string.
fn plain(digits: &[u8]) -> Option<u8> {
    let digits = str::from_utf8(digits.get(..4)?).ok().filter(|digits| !digits.starts_with('+'))?;
    let code = u8::try_from(u16::from_str_radix(digits, 16).ok()?).ok()?;
    matches!(code, b' '..=b'~').then_some(code).filter(|code| !matches!(code, b'"' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undone(text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        let length = undo(&mut bytes);
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn what_needs_no_escape_has_none_and_all_else_is_as_it_was() {
        for (text, expected) in [
            (r#"{"payload": "\u002B\/+\/\u003d"}"#, r#"{"payload": "+/+/="}"#),
            (
                r#"["\\/", "\"\/", "\n\u00e9\u0022\u005c\ud83d\ude00"]"#,
                r#"["\\/", "\"/", "\n\u00e9\u0022\u005c\ud83d\ude00"]"#,
            ),
            (r#"["\\", \u0031, "\/"]"#, r#"["\\", \u0031, "/"]"#),
            (r#""\u+041\u00"#, r#""\u+041\u00"#),
            (r#""\"#, r#""\"#),
            ("{}", "{}"),
        ] {
            assert_eq!(undone(text), expected);
        }
    }
}
