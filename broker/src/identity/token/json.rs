//! JSON as credentials need it read: no member twice at any level, bounded depth, integers kept apart from fractions.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};

/// Deeper than any issuer nests its claims.
const MAX_DEPTH: usize = 12;

pub(super) type Object = BTreeMap<String, Json>;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    Fraction(f64),
    String(String),
    Array(Vec<Json>),
    Object(Object),
}

/// What is wrong and where in the text, without a word of the text itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum JsonError {
    #[error("not JSON at line {line} column {column}, or a member twice, or nested deeper than {MAX_DEPTH}")]
    Unreadable { line: usize, column: usize },
    #[error("not a JSON object")]
    NotAnObject,
}

pub(super) fn read_object(text: &[u8]) -> Result<Object, JsonError> {
    let mut input = serde_json::Deserializer::from_slice(text);
    let unreadable = |error: serde_json::Error| JsonError::Unreadable { line: error.line(), column: error.column() };
    let value = Value { depth: 0 }.deserialize(&mut input).map_err(unreadable)?;
    input.end().map_err(unreadable)?;
    if let Json::Object(object) = value { Ok(object) } else { Err(JsonError::NotAnObject) }
}

impl Json {
    pub(super) fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    pub(super) fn as_object(&self) -> Option<&Object> {
        if let Self::Object(object) = self { Some(object) } else { None }
    }

    pub(super) fn as_array(&self) -> Option<&[Self]> {
        if let Self::Array(items) = self { Some(items) } else { None }
    }
}

#[derive(Clone, Copy)]
struct Value {
    depth: usize,
}

impl Value {
    fn inner<E: Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH { Err(E::custom("too deep")) } else { Ok(Self { depth: self.depth + 1 }) }
    }
}

impl<'de> DeserializeSeed<'de> for Value {
    type Value = Json;

    fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> Result<Json, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(u64::try_from(value).map_or(Json::Negative(value), Json::Unsigned))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Fraction(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let inner = self.inner()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let inner = self.inner()?;
        let mut object = Object::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(inner)?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a member twice"));
            }
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_member_twice_at_any_level() {
        for text in [r#"{"a":1,"a":1}"#, r#"{"a":{"b":1,"b":2}}"#, r#"{"a":[{"b":1,"b":2}]}"#, r#"{"a":1,"\u0061":1}"#]
        {
            assert!(matches!(read_object(text.as_bytes()), Err(JsonError::Unreadable { .. })), "{text}");
        }
    }

    #[test]
    fn refuses_deep_nesting_and_text_after_the_object() {
        let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        assert!(read_object(deep.as_bytes()).is_err());
        let fits = format!(r#"{{"a":{}1{}}}"#, "[".repeat(MAX_DEPTH - 1), "]".repeat(MAX_DEPTH - 1));
        assert!(read_object(fits.as_bytes()).is_ok());
        assert!(read_object(br#"{"a":1} {"#).is_err());
        assert!(read_object(b"\xef\xbb\xbf{}").is_err());
        assert_eq!(read_object(b"[]"), Err(JsonError::NotAnObject));
    }

    #[test]
    fn an_integer_is_not_a_fraction() {
        let object = read_object(br#"{"a":1,"b":1.0,"c":1e3,"d":-1,"e":18446744073709551616}"#).unwrap();
        assert_eq!(object["a"], Json::Unsigned(1));
        assert_eq!(object["b"], Json::Fraction(1.0));
        assert_eq!(object["c"], Json::Fraction(1000.0));
        assert_eq!(object["d"], Json::Negative(-1));
        assert!(matches!(object["e"], Json::Fraction(_)));
    }
}
