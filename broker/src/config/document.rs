//! The text of a configuration file as a tree whose every part knows its line.

use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Place;

/// Far beyond any real configuration; keeps a wrong file from being read at length.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// Beyond this, columns count bytes: counting characters again and again would take a long line's length squared.
const COUNTED: usize = 4096;

pub(super) struct Document<'d> {
    text: &'d str,
    line_starts: Vec<usize>,
    pub(super) syntax_errors: Vec<(Place, String)>,
    /// Broken lines, of which nothing more is worth saying, and those after a broken table header: whose keys
    /// they are is unknown.
    stray_lines: Vec<RangeInclusive<usize>>,
}

impl<'d> Document<'d> {
    pub(super) fn parse(text: &'d str) -> (Self, DeTable<'d>) {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut document = Self { text, line_starts, syntax_errors: Vec::new(), stray_lines: Vec::new() };
        if let Some((place, message)) = document.unreadable() {
            document.syntax_errors.push((place, message));
            return (document, DeTable::new());
        }
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let place = error.span().map_or(Place::File, |span| document.place(span.start));
            // The text itself stays out: it may be a key pasted without quotes.
            document.syntax_errors.push((place, format!("not valid TOML: {}", error.message())));
        }
        document.syntax_errors.sort();
        // What follows on the same line is the parser finding its way back.
        document.syntax_errors.dedup_by(|next, first| is_same_line(&next.0, &first.0));
        document.find_stray_lines();
        (document, root.into_inner())
    }

    /// What no parser should see, nor any message quote from.
    fn unreadable(&self) -> Option<(Place, String)> {
        if self.text.len() > MAX_BYTES {
            let message = format!(
                "the file has {} bytes; a configuration has at most {MAX_BYTES}: give another file",
                self.text.len()
            );
            return Some((Place::File, message));
        }
        let at = self.text.find("PRIVATE KEY-----")?;
        let message = "a private key is in the configuration; \
                       move it to a file of its own and write that file's path"
            .to_owned();
        Some((self.place(at), message))
    }

    pub(super) fn place(&self, offset: usize) -> Place {
        let line = self.line_starts.partition_point(|&start| start <= offset).max(1);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let column = match self.text.get(start..offset) {
            Some(before) if before.len() <= COUNTED => before.chars().count() + 1,
            Some(_) | None => offset.saturating_sub(start) + 1,
        };
        Place::Line { line, column }
    }

    /// The source of a value, as far as it fits into a message.
    pub(super) fn source(&self, value: &Spanned<DeValue<'_>>) -> String {
        shown(self.text.get(value.span()).unwrap_or_default())
    }

    pub(super) fn is_stray(&self, place: &Place) -> bool {
        match place {
            Place::Line { line, .. } => {
                let at = self.stray_lines.partition_point(|lines| lines.end() < line);
                self.stray_lines.get(at).is_some_and(|lines| lines.contains(line))
            }
            Place::File | Place::Variable(_) => false,
        }
    }

    /// Goes through the errors in order, so that the ranges come out sorted and apart.
    fn find_stray_lines(&mut self) {
        let mut ranges: Vec<RangeInclusive<usize>> = Vec::new();
        for (place, _) in &self.syntax_errors {
            let Place::Line { line: broken, .. } = *place else {
                continue;
            };
            if ranges.last().is_some_and(|last| last.contains(&broken)) {
                continue;
            }
            let lines = self.line_starts.len();
            let is_header = |&line: &usize| self.line(line).starts_with('[');
            let last = if is_header(&broken) {
                (broken + 1..=lines).find(is_header).map_or(lines, |next| next - 1)
            } else {
                broken
            };
            ranges.push(broken..=last);
        }
        self.stray_lines = ranges;
    }

    fn line(&self, line: usize) -> &str {
        let start = self.line_starts.get(line - 1).copied().unwrap_or(self.text.len());
        let rest = self.text.get(start..).unwrap_or_default();
        rest.lines().next().unwrap_or_default().trim_start()
    }
}

fn is_same_line(a: &Place, b: &Place) -> bool {
    match (a, b) {
        (Place::Line { line: a, .. }, Place::Line { line: b, .. }) => a == b,
        _ => a == b,
    }
}

pub(super) fn quoted(text: &str) -> String {
    if text.contains("-----BEGIN") {
        return "a PEM text".to_owned();
    }
    format!("\"{}\"", shown(text))
}

/// On one line, and short.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut short: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short.replace("\\\"", "\"").replace("\\'", "'")
}

pub(super) fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
