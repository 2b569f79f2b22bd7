//! From JSON to the wire format. Strict: what is unknown, given twice or of another type is refused with its place.

use std::collections::HashSet;
use std::fmt;
use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};

use super::escapes;
use super::fault::{Fault, Step, is_plain, path, syntax};
use super::schema::{Field, Kind, Label, Message, MessageId, Schema, Shape};
use crate::error::Failure;
use crate::gateway::wiped::Wiped;
use crate::suggestion::nearest;

/// Objects and lists within each other.
const DEPTH: usize = 32;

/// Either alphabet, with padding or without, as the mapping asks of a reader.
const ANY_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, ANY_PADDING);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, ANY_PADDING);

/// From the year 1 to the year 9999.
const TIMES: RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const DELIMITED: u64 = 2;

impl Schema {
    /// Adds the message to what `out` holds.
    pub(in crate::gateway) fn read(&self, message: MessageId, json: &mut [u8], out: Wiped) -> Result<Wiped, Failure> {
        let mut reader = Reader { schema: self, out, path: Vec::new(), depth: 0, fault: None };
        let length = escapes::undo(json);
        let mut parser = serde_json::Deserializer::from_slice(&json[..length]);
        let whole = Slot { reader: &mut reader, kind: Kind::Message(message), label: Label::One, number: None };
        let read = whole.deserialize(&mut parser).and_then(|given| parser.end().map(|()| given));
        let fault = match (read, reader.fault) {
            (Ok(true), None) => return Ok(reader.out),
            (_, Some(fault)) => fault,
            (Err(error), None) => syntax(&error),
            (Ok(false), None) => Fault { path: String::new(), description: "is null; write an object".to_owned() },
        };
        Err(fault.into())
    }
}

struct Reader<'s> {
    schema: &'s Schema,
    out: Wiped,
    path: Vec<Step<'s>>,
    depth: usize,
    /// Kept here, because the parser's errors are texts.
    fault: Option<Fault>,
}

impl<'s> Reader<'s> {
    /// About the place that is being read.
    fn refuse<E: serde::de::Error>(&mut self, description: impl Into<String>) -> E {
        self.fault = Some(Fault { path: path(&self.path), description: description.into() });
        E::custom("refused")
    }

    /// One level deeper.
    fn within<T, E: serde::de::Error>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        if self.depth == DEPTH {
            return Err(self.refuse(format!("is nested deeper than {DEPTH} levels; flatten it")));
        }
        self.depth += 1;
        let read = read(self)?;
        self.depth -= 1;
        Ok(read)
    }

    fn varint(&mut self, value: u64) {
        let (bytes, length) = varint(value);
        self.out.put(&bytes[..length]);
    }

    fn tag(&mut self, number: u32, wire: u64) {
        self.varint(u64::from(number) << 3 | wire);
    }

    fn scalar(&mut self, number: u32, value: u64) {
        self.tag(number, VARINT);
        self.varint(value);
    }

    fn delimited(&mut self, number: u32, bytes: &[u8]) {
        self.tag(number, DELIMITED);
        self.varint(bytes.len() as u64);
        self.out.put(bytes);
    }

    /// What `write` adds, with its length before it; without a number it is the whole message.
    fn nested<T, E>(&mut self, number: Option<u32>, write: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        let Some(number) = number else { return write(self) };
        self.tag(number, DELIMITED);
        let start = self.out.len();
        let written = write(self)?;
        let (bytes, length) = varint((self.out.len() - start) as u64);
        self.out.insert(start, &bytes[..length]);
        Ok(written)
    }

    fn fields<'de, A: MapAccess<'de>>(&mut self, message: &'s Message, mut map: A) -> Result<(), A::Error> {
        let (mut seen, mut chosen) = (HashSet::new(), HashSet::new());
        while let Some((place, field)) = map.next_key_seed(MemberName { reader: &mut *self, message })? {
            self.path.push(Step::Field(&field.json_name));
            if !seen.insert(place) {
                return Err(self.refuse("is given twice; give it once"));
            }
            let Field { kind, label, number, .. } = *field;
            let given = map.next_value_seed(Slot { reader: &mut *self, kind, label, number: Some(number) })?;
            if given && field.oneof.is_some_and(|oneof| !chosen.insert(oneof)) {
                return Err(self.refuse("excludes another field that is given too; give one of them"));
            }
            self.path.pop();
        }
        Ok(())
    }

    /// The entries of a map: messages of a key and a value.
    fn entries<'de, A: MapAccess<'de>>(
        &mut self,
        number: Option<u32>,
        value: Kind,
        mut map: A,
    ) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            self.path.push(Step::Key(key.clone()));
            self.nested(number, |reader| {
                reader.delimited(1, key.as_bytes());
                let slot = Slot { reader: &mut *reader, kind: value, label: Label::One, number: Some(2) };
                if map.next_value_seed(slot)? { Ok(()) } else { Err(reader.refuse("is null; leave it out")) }
            })?;
            if !seen.insert(key) {
                return Err(self.refuse("is given twice; give it once"));
            }
            self.path.pop();
        }
        Ok(())
    }

    fn elements<'de, A: SeqAccess<'de>>(&mut self, number: u32, kind: Kind, mut list: A) -> Result<(), A::Error> {
        for place in 0.. {
            self.path.push(Step::Element(place));
            let slot = Slot { reader: &mut *self, kind, label: Label::One, number: Some(number) };
            match list.next_element_seed(slot)? {
                None => break,
                Some(true) => {}
                Some(false) => return Err(self.refuse("is null; leave it out")),
            }
            self.path.pop();
        }
        self.path.pop();
        Ok(())
    }
}

/// One value that is to come: `false` if it was null, which means that it is absent.
struct Slot<'r, 's> {
    reader: &'r mut Reader<'s>,
    kind: Kind,
    label: Label,
    /// None for the message as a whole.
    number: Option<u32>,
}

impl<'s> Slot<'_, 's> {
    fn shape(&self) -> Option<(&'s Message, Shape)> {
        let Kind::Message(id) = self.kind else { return None };
        let message = self.reader.schema.message(id);
        Some((message, message.shape))
    }

    fn is_one(&self, shape: Shape) -> bool {
        self.label == Label::One && self.shape().is_some_and(|(_, known)| known == shape)
    }

    /// Whatever a `Value` may hold, `write` puts it in its place there.
    fn value(self, write: impl FnOnce(&mut Reader<'s>)) -> bool {
        let Ok(()) = self.reader.nested(self.number, |reader| {
            write(reader);
            Ok::<_, std::convert::Infallible>(())
        });
        true
    }

    fn wrong<E: serde::de::Error>(self, found: &str) -> E {
        let wanted = match (self.label, self.kind, self.shape()) {
            (Label::Many, ..) => "a list",
            (Label::Map, ..) => "an object",
            (Label::One, Kind::Bool, _) => "true or false",
            (Label::One, Kind::Int32 | Kind::Int64, _) => "a whole number",
            (Label::One, Kind::String, _) => "a string",
            (Label::One, Kind::Bytes, _) => "a string in base64",
            (Label::One, Kind::Enum(_), _) => "the name of a value, as a string",
            (Label::One, _, Some((_, Shape::Timestamp))) => "a string such as \"2030-01-31T12:00:00Z\"",
            (Label::One, _, Some((_, Shape::Duration))) => "a string such as \"300s\"",
            (Label::One, _, Some((_, Shape::List))) => "a list",
            (Label::One, ..) => "an object",
        };
        self.reader.refuse(format!("is {found}; write {wanted}"))
    }

    fn integer<E: serde::de::Error>(self, value: Option<i64>) -> Result<bool, E> {
        let fits = value.filter(|value| self.kind == Kind::Int64 || i32::try_from(*value).is_ok());
        match (fits, self.number) {
            (Some(value), Some(number)) => {
                self.reader.scalar(number, value as u64);
                Ok(true)
            }
            _ => Err(self.reader.refuse("is not a whole number in the range of its type")),
        }
    }

    fn number<E: serde::de::Error>(self, integer: Option<i64>, number: f64) -> Result<bool, E> {
        if self.label == Label::One && matches!(self.kind, Kind::Int32 | Kind::Int64 | Kind::Enum(_)) {
            return self.integer(integer);
        }
        if !self.is_one(Shape::Value) {
            return Err(self.wrong("a number"));
        }
        Ok(self.value(|reader| {
            reader.tag(2, FIXED64);
            reader.out.put(&number.to_le_bytes());
        }))
    }

    fn bytes<E: serde::de::Error>(self, number: u32, text: &str) -> Result<bool, E> {
        let engine = if text.bytes().any(|byte| matches!(byte, b'-' | b'_')) { BASE64_URL } else { BASE64 };
        let reader = self.reader;
        let decoded = reader.nested(Some(number), |reader| {
            let most = base64::decoded_len_estimate(text.len());
            reader.out.put_with(most, |out| engine.decode_slice(text, out).map_err(drop))
        });
        decoded.map(|()| true).map_err(|()| reader.refuse("is not base64"))
    }

    fn text<E: serde::de::Error>(self, text: &str) -> Result<bool, E> {
        let (Label::One, Some(number)) = (self.label, self.number) else { return Err(self.wrong("a string")) };
        match self.kind {
            Kind::String => {
                self.reader.delimited(number, text.as_bytes());
                Ok(true)
            }
            Kind::Bytes => self.bytes(number, text),
            Kind::Int32 | Kind::Int64 => {
                let plain = text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit());
                self.integer(text.parse().ok().filter(|_| plain))
            }
            Kind::Enum(id) => match self.reader.schema.enumeration(id).number(text) {
                Some(value) => {
                    self.reader.scalar(number, i64::from(value) as u64);
                    Ok(true)
                }
                None => {
                    let name = &self.reader.schema.enumeration(id).name;
                    Err(self.reader.refuse(format!("is not the name of a value of {name}")))
                }
            },
            Kind::Bool => Err(self.wrong("a string")),
            Kind::Message(_) => self.well_known(number, text),
        }
    }

    fn well_known<E: serde::de::Error>(self, number: u32, text: &str) -> Result<bool, E> {
        let encoded = match self.shape() {
            Some((_, Shape::Timestamp)) => timestamp(text).map(|time| time.encode_to_vec()),
            Some((_, Shape::Duration)) => duration(text).map(|span| span.encode_to_vec()),
            Some((_, Shape::Value)) => return Ok(self.value(|reader| reader.delimited(3, text.as_bytes()))),
            _ => return Err(self.wrong("a string")),
        };
        match encoded {
            Some(encoded) => {
                self.reader.delimited(number, &encoded);
                Ok(true)
            }
            None => Err(self.wrong("a string of another form")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Slot<'_, '_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, parser: D) -> Result<bool, D::Error> {
        parser.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Slot<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of the contract")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<bool, E> {
        if self.is_one(Shape::Value) {
            return Ok(self.value(|reader| reader.scalar(1, 0)));
        }
        Ok(false)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<bool, E> {
        match (self.label, self.kind, self.number) {
            (Label::One, Kind::Bool, Some(number)) => {
                self.reader.scalar(number, u64::from(value));
                Ok(true)
            }
            _ if self.is_one(Shape::Value) => Ok(self.value(|reader| reader.scalar(4, u64::from(value)))),
            _ => Err(self.wrong("true or false")),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<bool, E> {
        self.number(Some(value), value as f64)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<bool, E> {
        self.number(i64::try_from(value).ok(), value as f64)
    }

    /// `1.0` and `1e3` are whole numbers too.
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<bool, E> {
        let whole = value.fract() == 0.0 && value.abs() <= 9e15;
        self.number(whole.then_some(value as i64), value)
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<bool, E> {
        self.text(text)
    }

    /// With an escape in it.
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<bool, E> {
        if self.label == Label::One && self.kind == Kind::Bytes {
            return Err(self.reader.refuse("is not base64"));
        }
        self.text(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<bool, A::Error> {
        let Self { kind, label, number, .. } = self;
        let schema = self.reader.schema;
        if let (Label::Many, Some(number)) = (label, number) {
            self.reader.within(|reader| reader.elements(number, kind, list))?;
            return Ok(true);
        }
        let is_value = self.is_one(Shape::Value);
        if !is_value && !self.is_one(Shape::List) {
            return Err(self.wrong("a list"));
        }
        self.reader.within(|reader| {
            reader.nested(number, |reader| {
                reader.nested(is_value.then_some(6), |reader| reader.elements(1, schema.value(), list))
            })
        })?;
        Ok(true)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<bool, A::Error> {
        let Self { label, number, .. } = self;
        let schema = self.reader.schema;
        match (label, self.shape()) {
            (Label::Map, _) => self.reader.within(|reader| reader.entries(number, self.kind, map))?,
            (Label::One, Some((message, Shape::Fields))) => {
                self.reader.within(|reader| reader.nested(number, |reader| reader.fields(message, map)))?;
            }
            (Label::One, Some((_, shape @ (Shape::Struct | Shape::Value)))) => {
                self.reader.within(|reader| {
                    reader.nested(number, |reader| {
                        let inner = (shape == Shape::Value).then_some(5);
                        reader.nested(inner, |reader| reader.entries(Some(1), schema.value(), map))
                    })
                })?;
            }
            _ => return Err(self.wrong("an object")),
        }
        Ok(true)
    }
}

/// A member's name, which is to be one of the message's fields.
struct MemberName<'r, 's> {
    reader: &'r mut Reader<'s>,
    message: &'s Message,
}

impl<'de, 's> DeserializeSeed<'de> for MemberName<'_, 's> {
    type Value = (usize, &'s Field);

    fn deserialize<D: serde::Deserializer<'de>>(self, parser: D) -> Result<Self::Value, D::Error> {
        parser.deserialize_str(self)
    }
}

impl<'s> Visitor<'_> for MemberName<'_, 's> {
    type Value = (usize, &'s Field);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        if let Some(found) = self.message.field(name) {
            return Ok(found);
        }
        let of = &self.message.name;
        if !is_plain(name) {
            return Err(self.reader.refuse(format!("has a member that is not a field of {of}")));
        }
        let meant = nearest(name, self.message.fields.iter().map(|field| field.json_name.as_str()));
        let meant = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
        self.reader.path.push(Step::Key(name.to_owned()));
        Err(self.reader.refuse(format!("is not a field of {of}{meant}")))
    }
}

/// RFC 3339 with all of its parts; the library takes less for an answer.
fn timestamp(text: &str) -> Option<prost_types::Timestamp> {
    let bytes = text.as_bytes();
    let offset = bytes.len().checked_sub(6).and_then(|start| bytes.get(start));
    let ends = bytes.last() == Some(&b'Z') || matches!(offset, Some(b'+' | b'-'));
    let time: prost_types::Timestamp = text.parse().ok()?;
    (ends && bytes.get(10) == Some(&b'T') && TIMES.contains(&time.seconds)).then_some(time)
}

/// Seconds with up to nine decimals.
fn duration(text: &str) -> Option<prost_types::Duration> {
    let number = text.strip_suffix('s')?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let decimal = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !decimal(digits) || !decimal(fraction) || fraction.len() > 9 {
        return None;
    }
    let seconds: i64 = digits.parse().ok().filter(|seconds| *seconds <= 315_576_000_000)?;
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    let sign = if digits.len() == whole.len() { 1 } else { -1 };
    Some(prost_types::Duration { seconds: seconds * sign, nanos: nanos * sign as i32 })
}

fn varint(value: u64) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    encode_varint(value, &mut bytes.as_mut_slice());
    (bytes, encoded_len_varint(value))
}
