//! A verified token's claims as policy sees them: paths with sets of strings.

use std::fmt;

use super::json::{Json, Object};
use super::rejection::Rejection;

const MAX_VALUES: usize = 256;
const MAX_TEXT: usize = 16 * 1024;

/// They speak of one token and not of its holder, or are enforced here and not by policy.
const LEFT_OUT: [&str; 9] = ["exp", "iat", "nbf", "jti", "nonce", "cnf", "_claim_names", "_claim_sources", "hasgroups"];

/// A path is a JSON Pointer (RFC 6901) without its first slash, such as `kubernetes.io/namespace`: a slash within a name
/// is written `~1`, so no claim can pass for a member of another one.
///
/// One text and spans into it, because thousands of verified tokens are kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Claims {
    text: Box<str>,
    values: Box<[Value]>,
    group_overage: bool,
}

/// In the order of their paths. Values of one claim share the path's text.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Value {
    path: Span,
    value: Span,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u16,
    end: u16,
}

impl Claims {
    /// Refuses what does not fit rather than dropping some of it: a policy that forbids by a claim must see it.
    pub(super) fn flatten(payload: &Object) -> Result<Self, Rejection> {
        let mut flat = Flattening { text: String::new(), values: Vec::new() };
        for (name, value) in payload {
            if !LEFT_OUT.contains(&name.as_str()) {
                flat.add(None, name, value)?;
            }
        }
        flat.sort();
        Ok(Self { text: flat.text.into(), values: flat.values.into(), group_overage: has_group_overage(payload) })
    }

    /// Of a caller that is described and was never authenticated, from the JSON that its token would hold.
    pub fn described(payload: &[u8]) -> Result<Self, Rejection> {
        let payload =
            super::json::read_object(payload).map_err(|error| Rejection::Malformed(error.to_string().into()))?;
        Self::flatten(&payload)
    }

    /// The values of one claim; none where it is absent.
    pub fn get(&self, path: &str) -> impl Iterator<Item = &str> {
        let start = self.values.partition_point(|value| self.slice(value.path) < path);
        self.values[start..]
            .iter()
            .take_while(move |value| self.slice(value.path) == path)
            .map(|value| self.slice(value.value))
    }

    /// Every path with each of its values, ordered by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|value| (self.slice(value.path), self.slice(value.value)))
    }

    /// Entra ID left the groups out because there are too many, so a policy over `groups` cannot match. The remedy is
    /// app roles, or groups assigned to the application.
    pub fn group_overage(&self) -> bool {
        self.group_overage
    }

    pub(super) fn heap_size(&self) -> usize {
        self.text.len() + size_of_val(&*self.values)
    }

    fn slice(&self, span: Span) -> &str {
        &self.text[usize::from(span.start)..usize::from(span.end)]
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.values.iter().map(|value| self.slice(value.path))).finish()
    }
}

struct Flattening {
    text: String,
    values: Vec<Value>,
}

impl Flattening {
    fn add(&mut self, prefix: Option<&str>, name: &str, value: &Json) -> Result<(), Rejection> {
        let name = name.replace('~', "~0").replace('/', "~1");
        let path = prefix.map_or_else(|| name.clone(), |prefix| format!("{prefix}/{name}"));
        match value {
            Json::Object(members) => members.iter().try_for_each(|(name, value)| self.add(Some(&path), name, value)),
            Json::Array(items) => self.add_values(&path, items),
            Json::Null
            | Json::Bool(_)
            | Json::Unsigned(_)
            | Json::Negative(_)
            | Json::Fraction(_)
            | Json::String(_) => self.add_values(&path, std::slice::from_ref(value)),
        }
    }

    /// Objects within an array have no path that policy could name, and are left out.
    fn add_values(&mut self, path: &str, items: &[Json]) -> Result<(), Rejection> {
        let mut scalars = items.iter().filter_map(scalar).peekable();
        if scalars.peek().is_none() {
            return Ok(());
        }
        let path = self.append(path)?;
        for scalar in scalars {
            let value = self.append(&scalar)?;
            if self.values.len() == MAX_VALUES {
                return Err(TOO_MANY);
            }
            self.values.push(Value { path, value });
        }
        Ok(())
    }

    fn append(&mut self, text: &str) -> Result<Span, Rejection> {
        let start = self.text.len();
        if start + text.len() > MAX_TEXT {
            return Err(TOO_MANY);
        }
        self.text.push_str(text);
        let bound = |at: usize| u16::try_from(at).map_err(|_| TOO_MANY);
        Ok(Span { start: bound(start)?, end: bound(self.text.len())? })
    }

    fn sort(&mut self) {
        let text = &self.text;
        let slice = |span: Span| &text[usize::from(span.start)..usize::from(span.end)];
        self.values.sort_by_key(|value| (slice(value.path), slice(value.value)));
        self.values.dedup_by_key(|value| (slice(value.path), slice(value.value)));
    }
}

const TOO_MANY: Rejection = Rejection::Malformed(std::borrow::Cow::Borrowed(
    "its claims have more than 256 values or 16 KiB; ask its issuer for fewer",
));

fn scalar(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Bool(value) => Some(value.to_string()),
        Json::Unsigned(value) => Some(value.to_string()),
        Json::Negative(value) => Some(value.to_string()),
        Json::Fraction(value) => Some(value.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

fn has_group_overage(payload: &Object) -> bool {
    let elsewhere = payload.get("_claim_names").and_then(Json::as_object);
    elsewhere.is_some_and(|names| names.contains_key("groups"))
        || matches!(payload.get("hasgroups"), Some(Json::Bool(true)))
        || payload.get("hasgroups").and_then(Json::as_str) == Some("true")
}

#[cfg(test)]
mod tests {
    use super::super::json::read_object;
    use super::*;

    fn flatten(payload: &str) -> Result<Claims, Rejection> {
        Claims::flatten(&read_object(payload.as_bytes()).unwrap())
    }

    fn pairs(claims: &Claims) -> Vec<(&str, &str)> {
        claims.iter().collect()
    }

    #[test]
    fn nested_claims_are_named_by_their_path() {
        let claims = flatten(
            r#"{"kubernetes.io":{"namespace":"shop","pod":{"name":"a-1"}},"email_verified":true,"n":-3,"f":1.5,"x":null,
                "roles":["writer","reader","reader"],"objects":[{"a":1}]}"#,
        )
        .unwrap();
        let expected = [
            ("email_verified", "true"),
            ("f", "1.5"),
            ("kubernetes.io/namespace", "shop"),
            ("kubernetes.io/pod/name", "a-1"),
            ("n", "-3"),
            ("roles", "reader"),
            ("roles", "writer"),
        ];
        assert_eq!(pairs(&claims), expected);
        assert_eq!(claims.get("roles").collect::<Vec<_>>(), ["reader", "writer"]);
        assert_eq!(claims.get("role").count(), 0);
    }

    #[test]
    fn no_claim_passes_for_a_member_of_another() {
        let claims = flatten(r#"{"kubernetes.io/namespace":"forged","a~1b":"x"}"#).unwrap();
        assert_eq!(pairs(&claims), [("a~01b", "x"), ("kubernetes.io~1namespace", "forged")]);
        assert_eq!(claims.get("kubernetes.io/namespace").count(), 0);
        let odd = flatten(r#"{"":{"a":"1"},"/a":"2"}"#).unwrap();
        assert_eq!(pairs(&odd).len(), 2);
        assert_ne!(pairs(&odd)[0].0, pairs(&odd)[1].0);
    }

    #[test]
    fn too_many_values_are_refused_rather_than_dropped() {
        let roles = |count: usize| (0..count).map(|n| format!("\"r{n}\"")).collect::<Vec<_>>().join(",");
        assert!(flatten(&format!(r#"{{"roles":[{}]}}"#, roles(MAX_VALUES))).is_ok());
        assert!(flatten(&format!(r#"{{"roles":[{}]}}"#, roles(MAX_VALUES + 1))).is_err());
        assert!(flatten(&format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_TEXT))).is_err());
    }

    #[test]
    fn names_entras_group_overage() {
        assert!(flatten(r#"{"_claim_names":{"groups":"src1"},"_claim_sources":{"src1":{}}}"#).unwrap().group_overage());
        assert!(flatten(r#"{"hasgroups":true}"#).unwrap().group_overage());
        assert!(!flatten(r#"{"groups":["a"],"_claim_names":{"roles":"src1"}}"#).unwrap().group_overage());
    }
}
