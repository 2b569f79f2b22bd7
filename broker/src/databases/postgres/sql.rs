//! Text that becomes part of a statement. Statements that make and remove users take no parameters, so what goes into
//! them is quoted here and nowhere else.

/// A name, in any spelling.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", without_nul(name).replace('"', "\"\""))
}

/// A text. The escape form means the same whatever the server's `standard_conforming_strings` is.
pub(super) fn literal(text: &str) -> String {
    format!("E'{}'", without_nul(text).replace('\\', "\\\\").replace('\'', "\\'"))
}

pub(super) fn identifiers<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(|name| identifier(name)).collect::<Vec<_>>().join(", ")
}

/// The protocol ends a statement at the first NUL.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_no_quote_unanswered() {
        assert_eq!(identifier("a\"; drop role b; --"), "\"a\"\"; drop role b; --\"");
        assert_eq!(literal("it's \\'; drop"), "E'it\\'s \\\\\\'; drop'");
        assert_eq!(literal("a\0b"), "E'a\u{fffd}b'");
    }
}
