//! What the mapping needs to know of each message, from the descriptors that reflection serves too.

use std::collections::HashMap;

use keyferry_proto::FILE_DESCRIPTOR_SET;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label as ProtoLabel, Type};
use prost_types::method_options::IdempotencyLevel;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, MessageOptions, MethodOptions,
};

use crate::rpc::{METHODS, Method, Service};

/// What the details of an error are made of, to be shown beside their bytes.
const ERROR_DETAILS: [&str; 4] =
    ["google.rpc.ErrorInfo", "google.rpc.RetryInfo", "google.rpc.QuotaFailure", "google.rpc.BadRequest"];

/// Every message that a call can carry.
#[derive(Debug)]
pub(in crate::gateway) struct Schema {
    messages: Vec<Message>,
    enums: Vec<Enum>,
    by_name: HashMap<String, MessageId>,
    methods: HashMap<&'static str, MethodTypes>,
    value: MessageId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct MessageId(usize);

#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) struct MethodTypes {
    pub(in crate::gateway) input: MessageId,
    pub(in crate::gateway) output: MessageId,
    /// Declared to change nothing, so that it may be called by GET.
    pub(in crate::gateway) only_reads: bool,
}

#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) name: String,
    pub(super) shape: Shape,
    pub(super) fields: Vec<Field>,
}

/// What a message looks like in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shape {
    #[default]
    Fields,
    Timestamp,
    Duration,
    Struct,
    Value,
    List,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) name: String,
    pub(super) json_name: String,
    pub(super) kind: Kind,
    pub(super) label: Label,
    /// Of the fields with the same number here, a message has one.
    pub(super) oneof: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    One,
    Many,
    /// From strings to what its kind says.
    Map,
}

/// The kinds that the contract uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int32,
    Int64,
    String,
    Bytes,
    Enum(usize),
    Message(MessageId),
}

#[derive(Debug)]
pub(super) struct Enum {
    pub(super) name: String,
    values: Vec<(String, i32)>,
}

/// The contract has outgrown what can be said in JSON here.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("the embedded descriptors cannot be read")]
    Descriptors(#[from] prost::DecodeError),
    #[error("{0} is used and not declared")]
    Undeclared(String),
    #[error("{0} is of a kind that has no JSON form here; add it to the schema, the reader and the writer")]
    Unsupported(String),
}

impl Schema {
    pub(in crate::gateway) fn new() -> Result<Self, SchemaError> {
        let sets = [FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET, tonic_types::pb::FILE_DESCRIPTOR_SET]
            .into_iter()
            .map(FileDescriptorSet::decode)
            .collect::<Result<Vec<_>, _>>()?;
        let files: Vec<_> = sets.iter().flat_map(|set| &set.file).collect();
        let mut builder = Builder::default();
        for file in &files {
            let package = format!(".{}", file.package());
            file.enum_type.iter().for_each(|declared| builder.declare_enum(&package, declared));
            file.message_type.iter().for_each(|declared| builder.declare(&package, declared));
        }
        let mut methods = HashMap::new();
        for file in &files {
            for (service, method) in
                file.service.iter().flat_map(|service| service.method.iter().map(move |method| (service, method)))
            {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                // Envoys speak gRPC alone.
                let speaks_json = |row: &&Method| row.path == path && row.service != Service::Envoy;
                let Some(row) = METHODS.iter().find(speaks_json) else { continue };
                let level = method.options.as_ref().map(MethodOptions::idempotency_level);
                let types = MethodTypes {
                    input: builder.message(method.input_type())?,
                    output: builder.message(method.output_type())?,
                    only_reads: level == Some(IdempotencyLevel::NoSideEffects),
                };
                methods.insert(row.path, types);
            }
        }
        for name in ERROR_DETAILS {
            builder.message(&format!(".{name}"))?;
        }
        let value = builder.message(".google.protobuf.Value")?;
        let Builder { messages, enums, by_name, .. } = builder;
        Ok(Self { messages, enums, by_name, methods, value })
    }

    pub(in crate::gateway) fn method(&self, path: &str) -> Option<MethodTypes> {
        self.methods.get(path).copied()
    }

    /// By its full name, without a leading dot.
    pub(in crate::gateway) fn message_named(&self, name: &str) -> Option<MessageId> {
        self.by_name.get(name).copied()
    }

    pub(super) fn message(&self, id: MessageId) -> &Message {
        &self.messages[id.0]
    }

    /// The kind of what a `Struct` or a `ListValue` holds.
    pub(super) fn value(&self) -> Kind {
        Kind::Message(self.value)
    }

    pub(super) fn enumeration(&self, id: usize) -> &Enum {
        &self.enums[id]
    }
}

impl Message {
    /// By its name in JSON, or as the contract writes it.
    pub(super) fn field(&self, name: &str) -> Option<(usize, &Field)> {
        self.fields.iter().enumerate().find(|(_, field)| field.json_name == name || field.name == name)
    }

    pub(super) fn numbered(&self, number: u32) -> Option<&Field> {
        self.fields.iter().find(|field| field.number == number)
    }
}

impl Enum {
    pub(super) fn number(&self, name: &str) -> Option<i32> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, number)| *number)
    }

    pub(super) fn name_of(&self, number: i32) -> Option<&str> {
        self.values.iter().find(|(_, known)| *known == number).map(|(name, _)| name.as_str())
    }
}

#[derive(Default)]
struct Builder<'a> {
    declared: HashMap<String, &'a DescriptorProto>,
    declared_enums: HashMap<String, &'a EnumDescriptorProto>,
    messages: Vec<Message>,
    enums: Vec<Enum>,
    by_name: HashMap<String, MessageId>,
}

impl<'a> Builder<'a> {
    fn declare(&mut self, scope: &str, message: &'a DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        message.enum_type.iter().for_each(|declared| self.declare_enum(&name, declared));
        message.nested_type.iter().for_each(|declared| self.declare(&name, declared));
        self.declared.insert(name, message);
    }

    fn declare_enum(&mut self, scope: &str, declared: &'a EnumDescriptorProto) {
        self.declared_enums.insert(format!("{scope}.{}", declared.name()), declared);
    }

    /// With all that it refers to.
    fn message(&mut self, name: &str) -> Result<MessageId, SchemaError> {
        let name = name.trim_start_matches('.');
        if let Some(known) = self.by_name.get(name) {
            return Ok(*known);
        }
        let undeclared = || SchemaError::Undeclared(name.to_owned());
        let declared = *self.declared.get(&format!(".{name}")).ok_or_else(undeclared)?;
        let id = MessageId(self.messages.len());
        self.by_name.insert(name.to_owned(), id);
        let shape = match name {
            "google.protobuf.Timestamp" => Shape::Timestamp,
            "google.protobuf.Duration" => Shape::Duration,
            "google.protobuf.Struct" => Shape::Struct,
            "google.protobuf.Value" => Shape::Value,
            "google.protobuf.ListValue" => Shape::List,
            _ => Shape::Fields,
        };
        // Its place is taken before its fields are looked at: one of them may be of its own kind.
        self.messages.push(Message { name: name.to_owned(), shape, fields: Vec::new() });
        if shape == Shape::Fields {
            let fields = declared.field.iter().map(|field| self.field(name, field));
            self.messages[id.0].fields = fields.collect::<Result<_, _>>()?;
        }
        Ok(id)
    }

    fn field(&mut self, message: &str, field: &FieldDescriptorProto) -> Result<Field, SchemaError> {
        let unsupported = || SchemaError::Unsupported(format!("{message}.{}", field.name()));
        let (mut of, mut label) = (field, if field.label() == ProtoLabel::Repeated { Label::Many } else { Label::One });
        if let Some(entry) = self.declared.get(field.type_name()).filter(|declared| is_map_entry(declared)) {
            let [key, value] = entry.field.as_slice() else { return Err(unsupported()) };
            if key.r#type() != Type::String {
                return Err(unsupported());
            }
            (of, label) = (value, Label::Map);
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "what the contract does not use")]
        let kind = match of.r#type() {
            Type::Bool => Kind::Bool,
            Type::Int32 => Kind::Int32,
            Type::Int64 => Kind::Int64,
            Type::String => Kind::String,
            Type::Bytes => Kind::Bytes,
            Type::Enum => Kind::Enum(self.enumeration(of.type_name())?),
            Type::Message => Kind::Message(self.message(of.type_name())?),
            _ => return Err(unsupported()),
        };
        Ok(Field {
            number: u32::try_from(field.number()).map_err(|_| unsupported())?,
            name: field.name().to_owned(),
            json_name: field.json_name().to_owned(),
            kind,
            label,
            oneof: field.oneof_index.filter(|_| !field.proto3_optional()),
        })
    }

    fn enumeration(&mut self, name: &str) -> Result<usize, SchemaError> {
        let declared = *self.declared_enums.get(name).ok_or_else(|| SchemaError::Undeclared(name.to_owned()))?;
        let name = name.trim_start_matches('.');
        if let Some(known) = self.enums.iter().position(|known| known.name == name) {
            return Ok(known);
        }
        let values = declared.value.iter().map(|value| (value.name().to_owned(), value.number())).collect();
        self.enums.push(Enum { name: name.to_owned(), values });
        Ok(self.enums.len() - 1)
    }
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(MessageOptions::map_entry)
}
