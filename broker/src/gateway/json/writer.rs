//! From the wire format to JSON. What is read here is what our own handlers answered, each field's values in one run.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::encoding::decode_varint;
use prost::{DecodeError, Message as _};
use prost_types::{Duration, ListValue, Struct, Timestamp, Value};
use serde_json::Value as Json;

use super::schema::{Field, Kind, Label, Message, MessageId, Schema, Shape};
use crate::gateway::wiped::Wiped;
use crate::rpc::{json_of, json_of_struct};

/// An answer that is not of its method's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message is not of its declared type")]
pub(in crate::gateway) struct Malformed;

impl Schema {
    /// Adds the message to what `out` holds.
    pub(in crate::gateway) fn write(&self, id: MessageId, wire: &[u8], out: &mut Wiped) -> Result<(), Malformed> {
        let message = self.message(id);
        match message.shape {
            Shape::Fields => self.write_fields(message, wire, out),
            Shape::Timestamp => write_text(&Timestamp::decode(wire)?.to_string(), out),
            Shape::Duration => write_text(&Duration::decode(wire)?.to_string(), out),
            Shape::Struct => write_json(&json_of_struct(&Struct::decode(wire)?), out),
            Shape::Value => write_json(&json_of(&Value::decode(wire)?), out),
            Shape::List => write_json(&ListValue::decode(wire)?.values.iter().map(json_of).collect(), out),
        }
    }

    fn write_fields(&self, message: &Message, wire: &[u8], out: &mut Wiped) -> Result<(), Malformed> {
        let mut wire = Wire(wire);
        let mut open: Option<&Field> = None;
        out.put(b"{");
        let empty = out.len();
        while let Some((number, payload)) = wire.next()? {
            let Some(field) = message.numbered(number) else { continue };
            if open.is_some_and(|open| open.number == number) {
                out.put(b",");
            } else {
                close(open, out);
                if out.len() > empty {
                    out.put(b",");
                }
                write_text(&field.json_name, out)?;
                out.put(match field.label {
                    Label::One => b":",
                    Label::Many => b":[",
                    Label::Map => b":{",
                });
                open = Some(field);
            }
            match (field.label, payload) {
                (Label::Map, payload) => self.write_entry(field.kind, payload.bytes()?, out)?,
                (Label::Many, Payload::Bytes(packed)) if field.kind.is_packed() => {
                    self.write_packed(field.kind, packed, out)?;
                }
                (Label::One | Label::Many, payload) => self.write_value(field.kind, payload, out)?,
            }
        }
        close(open, out);
        out.put(b"}");
        Ok(())
    }

    fn write_packed(&self, kind: Kind, mut packed: &[u8], out: &mut Wiped) -> Result<(), Malformed> {
        loop {
            self.write_value(kind, Payload::Varint(decode_varint(&mut packed)?), out)?;
            if packed.is_empty() {
                return Ok(());
            }
            out.put(b",");
        }
    }

    fn write_entry(&self, kind: Kind, entry: &[u8], out: &mut Wiped) -> Result<(), Malformed> {
        // What an entry leaves out has its default.
        let mut key = "";
        let mut value = if kind.is_packed() { Payload::Varint(0) } else { Payload::Bytes(&[]) };
        let mut wire = Wire(entry);
        while let Some((number, payload)) = wire.next()? {
            match number {
                1 => key = payload.text()?,
                2 => value = payload,
                _ => {}
            }
        }
        write_text(key, out)?;
        out.put(b":");
        self.write_value(kind, value, out)
    }

    fn write_value(&self, kind: Kind, payload: Payload<'_>, out: &mut Wiped) -> Result<(), Malformed> {
        match kind {
            Kind::Bool => out.put(if payload.integer()? == 0 { b"false" } else { b"true" }),
            Kind::Int32 => out.put(payload.integer()?.to_string().as_bytes()),
            // More digits than a double holds, so it travels as a string.
            Kind::Int64 => write_text(&payload.integer()?.to_string(), out)?,
            Kind::String => write_text(payload.text()?, out)?,
            Kind::Bytes => write_base64(payload.bytes()?, out)?,
            Kind::Enum(id) => {
                let number = i32::try_from(payload.integer()?).map_err(|_| Malformed)?;
                match self.enumeration(id).name_of(number) {
                    Some(name) => write_text(name, out)?,
                    None => out.put(number.to_string().as_bytes()),
                }
            }
            Kind::Message(id) => self.write(id, payload.bytes()?, out)?,
        }
        Ok(())
    }
}

fn close(open: Option<&Field>, out: &mut Wiped) {
    match open.map(|field| field.label) {
        Some(Label::Many) => out.put(b"]"),
        Some(Label::Map) => out.put(b"}"),
        Some(Label::One) | None => {}
    }
}

pub(in crate::gateway) fn write_text(text: &str, out: &mut Wiped) -> Result<(), Malformed> {
    serde_json::to_writer(out, text).map_err(|_| Malformed)
}

fn write_json(json: &Json, out: &mut Wiped) -> Result<(), Malformed> {
    serde_json::to_writer(out, json).map_err(|_| Malformed)
}

fn write_base64(bytes: &[u8], out: &mut Wiped) -> Result<(), Malformed> {
    out.put(b"\"");
    let most = base64::encoded_len(bytes.len(), true).ok_or(Malformed)?;
    out.put_with(most, |out| STANDARD.encode_slice(bytes, out)).map_err(|_| Malformed)?;
    out.put(b"\"");
    Ok(())
}

/// The fields of a message, one after the other.
struct Wire<'a>(&'a [u8]);

#[derive(Clone, Copy)]
enum Payload<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn next(&mut self) -> Result<Option<(u32, Payload<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = decode_varint(&mut self.0)?;
        let number = u32::try_from(tag >> 3).map_err(|_| Malformed)?;
        let payload = match tag & 7 {
            0 => Payload::Varint(decode_varint(&mut self.0)?),
            2 => {
                let length = usize::try_from(decode_varint(&mut self.0)?).map_err(|_| Malformed)?;
                let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
                self.0 = rest;
                Payload::Bytes(bytes)
            }
            _ => return Err(Malformed),
        };
        Ok(Some((number, payload)))
    }
}

impl<'a> Payload<'a> {
    fn integer(self) -> Result<i64, Malformed> {
        match self {
            Self::Varint(value) => Ok(value as i64),
            Self::Bytes(_) => Err(Malformed),
        }
    }

    fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) => Err(Malformed),
        }
    }

    fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }
}

impl Kind {
    /// Whether values that repeat may travel as one run of bytes.
    fn is_packed(self) -> bool {
        matches!(self, Self::Bool | Self::Int32 | Self::Int64 | Self::Enum(_))
    }
}

impl From<DecodeError> for Malformed {
    fn from(_: DecodeError) -> Self {
        Self
    }
}
