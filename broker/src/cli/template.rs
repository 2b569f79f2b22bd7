//! The language of `keyferry render`: text with `{{ secret "store/name" | json "field" | base64 }}` in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyferry_client::Secret;
use zeroize::Zeroizing;

use super::names;

/// A template that was read whole: nothing in it is found to be wrong later but what its secrets hold.
#[derive(Debug)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Text(String),
    /// On this line, the secret's whole name, and what is done to its value in order.
    Secret(usize, String, Vec<Filter>),
}

#[derive(Debug, PartialEq, Eq)]
enum Filter {
    Json(String),
    Base64,
}

/// Where, and what.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) line: usize,
    pub(super) what: String,
}

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self, Mistake> {
        let mut parts = Vec::new();
        let (mut rest, mut line) = (text, 1);
        while let Some((before, after)) = rest.split_once("{{") {
            parts.push(Part::Text(before.to_owned()));
            line += newlines(before);
            let mistake = |what: String| Mistake { line, what };
            let (inside, behind) = split_at_end(after).ok_or_else(|| mistake("{{ without }}".to_owned()))?;
            parts.push(expression(inside, line).map_err(mistake)?);
            line += newlines(inside);
            rest = behind;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self { parts })
    }

    pub(super) fn secrets(&self) -> BTreeSet<String> {
        self.named().map(|(_, name)| name.to_owned()).collect()
    }

    /// Where a secret is first named.
    pub(super) fn line_of(&self, secret: &str) -> Option<usize> {
        self.named().find(|(_, name)| *name == secret).map(|(line, _)| line)
    }

    pub(super) fn render(&self, secrets: &BTreeMap<String, Secret>) -> Result<Zeroizing<Vec<u8>>, Mistake> {
        let mut rendered = Zeroizing::new(Vec::new());
        for part in &self.parts {
            match part {
                Part::Text(text) => rendered.extend_from_slice(text.as_bytes()),
                Part::Secret(line, name, filters) => {
                    let mistake = |what: String| Mistake { line: *line, what: format!("{name} {what}") };
                    let secret = secrets.get(name).ok_or_else(|| mistake("was not read".to_owned()))?;
                    let mut value = Zeroizing::new(secret.payload.to_vec());
                    for filter in filters {
                        value = filter.apply(&value).map_err(mistake)?;
                    }
                    rendered.extend_from_slice(&value);
                }
            }
        }
        Ok(rendered)
    }

    fn named(&self) -> impl Iterator<Item = (usize, &str)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Secret(line, name, _) => Some((*line, name.as_str())),
            Part::Text(_) => None,
        })
    }
}

impl Filter {
    /// What is wrong with a value is told without the value.
    fn apply(&self, value: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
        match self {
            Self::Base64 => Ok(Zeroizing::new(STANDARD.encode(value).into_bytes())),
            Self::Json(field) => {
                let document: serde_json::Value =
                    serde_json::from_slice(value).map_err(|_| "holds no JSON".to_owned())?;
                match document.get(field) {
                    Some(serde_json::Value::String(text)) => Ok(Zeroizing::new(text.clone().into_bytes())),
                    Some(other) => Ok(Zeroizing::new(other.to_string().into_bytes())),
                    None => Err(format!("has no field \"{field}\"")),
                }
            }
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.what)
    }
}

/// A `}}` within quotes ends nothing.
fn split_at_end(text: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '}' if !quoted && text[at..].starts_with("}}") => return Some((&text[..at], &text[at + 2..])),
            _ => {}
        }
    }
    None
}

/// `secret "name"` and its filters, or a text in quotes as it is: `{{ "{{" }}`.
fn expression(text: &str, line: usize) -> Result<Part, String> {
    let mut words = words(text)?.into_iter();
    match (words.next(), words.next()) {
        (Some(Word::Quoted(text)), None) => Ok(Part::Text(text)),
        (Some(Word::Plain(word)), Some(Word::Quoted(name))) if word == "secret" => {
            let mut filters = Vec::new();
            while let Some(word) = words.next() {
                if word != Word::Plain("|".to_owned()) {
                    return Err("only a | can follow a secret or a filter".to_owned());
                }
                filters.push(match (words.next(), words.as_slice().first()) {
                    (Some(Word::Plain(filter)), _) if filter == "base64" => Filter::Base64,
                    (Some(Word::Plain(filter)), Some(Word::Quoted(field))) if filter == "json" => {
                        let field = field.clone();
                        words.next();
                        Filter::Json(field)
                    }
                    _ => return Err("there are two filters: json \"field\" and base64".to_owned()),
                });
            }
            Ok(Part::Secret(line, names::secret(&name), filters))
        }
        _ => Err("write {{ secret \"store/name\" }}".to_owned()),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Word {
    Plain(String),
    Quoted(String),
}

fn words(text: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let (quoted, behind) = rest[1..].split_once('"').ok_or("a quote is not closed")?;
            words.push(Word::Quoted(quoted.to_owned()));
            rest = behind.trim_start();
        } else {
            let end = match rest.find(|c: char| c.is_whitespace() || c == '"' || c == '|') {
                Some(0) => 1,
                Some(end) => end,
                None => rest.len(),
            };
            words.push(Word::Plain(rest[..end].to_owned()));
            rest = rest[end..].trim_start();
        }
    }
    Ok(words)
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_filters_and_quoted_text_are_read() {
        let template = Template::parse("a\n{{ secret \"local/db\" | json \"user\"|base64 }}{{\"{{\"}}b").unwrap();
        assert_eq!(template.secrets(), BTreeSet::from(["stores/local/secrets/db".to_owned()]));
        assert_eq!(template.line_of("stores/local/secrets/db"), Some(2));
        let told: Vec<_> = template.parts.iter().map(|part| format!("{part:?}")).collect();
        assert!(told[1].ends_with("[Json(\"user\"), Base64])"), "{told:?}");
        assert_eq!(told[3..], ["Text(\"{{\")", "Text(\"b\")"]);
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        for (text, line, what) in [
            ("{{ secret \"x/y\"", 1, "{{ without }}"),
            ("\n\n{{ sceret \"x/y\" }}", 3, "write {{ secret"),
            ("{{ \"\n\" }}\n{{ secret \"x/y\" | upper }}", 3, "two filters"),
            ("{{ secret \"x/y\" | json }}", 1, "two filters"),
            ("{{ secret \"x/y\" json }}", 1, "only a |"),
            ("{{ secret }}", 1, "write {{ secret"),
            ("{{ }}", 1, "write {{ secret"),
            ("{{ secret \"x }}", 1, "{{ without }}"),
        ] {
            let mistake = Template::parse(text).unwrap_err();
            assert!(mistake.line == line && mistake.what.contains(what), "{text:?}: {mistake}");
        }
    }

    #[test]
    fn filters_work_on_values_and_say_nothing_of_them() {
        let json = Filter::Json("port".to_owned());
        assert_eq!(json.apply(br#"{"port": 5432}"#).unwrap().as_slice(), b"5432");
        assert_eq!(Filter::Base64.apply(b"\xff").unwrap().as_slice(), b"/w==");
        let refused = [json.apply(b"hunter2").unwrap_err(), json.apply(br#"{"hunter2": 1}"#).unwrap_err()];
        assert!(refused.iter().all(|text| !text.contains("hunter2")), "{refused:?}");
    }
}
