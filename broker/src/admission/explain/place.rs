//! Where in its file each policy begins.

use std::iter::Peekable;
use std::str::Chars;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Place {
    pub(in super::super) file: String,
    /// From 1.
    pub(in super::super) line: usize,
}

/// The lines on which the policies of a text that Cedar has parsed begin, in their order.
pub(in super::super) fn lines(text: &str) -> Vec<usize> {
    let (mut starts, mut line, mut inside) = (Vec::new(), 1, false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\n' => line += 1,
            '/' if rest.peek() == Some(&'/') => while rest.next_if(|&c| c != '\n').is_some() {},
            ';' => inside = false,
            c if c.is_whitespace() => {}
            c => {
                if !inside {
                    inside = true;
                    starts.push(line);
                }
                if c == '"' {
                    line += skip_string(&mut rest);
                }
            }
        }
    }
    starts
}

/// A string may hold a semicolon, two slashes, an escaped quote; tells how many lines it spans.
fn skip_string(rest: &mut Peekable<Chars<'_>>) -> usize {
    let mut lines = 0;
    while let Some(c) = rest.next() {
        match c {
            '"' => break,
            '\\' => drop(rest.next()),
            '\n' => lines += 1,
            _ => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_begins_with_its_first_annotation() {
        let text = "// permit;\n\n@id(\"a;\\\"//\")\npermit (principal, action, resource);\n\
                    permit (principal, action, resource) // ; \n when { true }; forbid(principal, action, resource);\n";
        assert_eq!(lines(text), [3, 5, 6]);
    }
}
