//! The messages of `google.cloud.secretmanager.v1` that the double speaks, by their numbers on the wire.

use std::collections::BTreeMap;

use prost::Message;
use prost_types::{FieldMask, Timestamp};

#[derive(Clone, PartialEq, Message)]
pub(super) struct Secret {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) replication: Option<Replication>,
    #[prost(message, optional, tag = "3")]
    pub(super) create_time: Option<Timestamp>,
    #[prost(btree_map = "string, string", tag = "4")]
    pub(super) labels: BTreeMap<String, String>,
    #[prost(string, tag = "8")]
    pub(super) etag: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Replication {
    #[prost(message, optional, tag = "1")]
    pub(super) automatic: Option<Automatic>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Automatic {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SecretVersion {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) create_time: Option<Timestamp>,
    #[prost(message, optional, tag = "3")]
    pub(super) destroy_time: Option<Timestamp>,
    #[prost(enumeration = "State", tag = "4")]
    pub(super) state: i32,
    #[prost(string, tag = "6")]
    pub(super) etag: String,
    #[prost(bool, tag = "7")]
    pub(super) client_specified_payload_checksum: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
pub(super) enum State {
    Unspecified = 0,
    Enabled = 1,
    Disabled = 2,
    Destroyed = 3,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "STATE_UNSPECIFIED",
            Self::Enabled => "ENABLED",
            Self::Disabled => "DISABLED",
            Self::Destroyed => "DESTROYED",
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SecretPayload {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) data: Vec<u8>,
    #[prost(int64, optional, tag = "2")]
    pub(super) data_crc32c: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CreateSecretRequest {
    #[prost(string, tag = "1")]
    pub(super) parent: String,
    #[prost(string, tag = "2")]
    pub(super) secret_id: String,
    #[prost(message, optional, tag = "3")]
    pub(super) secret: Option<Secret>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct UpdateSecretRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) secret: Option<Secret>,
    #[prost(message, optional, tag = "2")]
    pub(super) update_mask: Option<FieldMask>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AddSecretVersionRequest {
    #[prost(string, tag = "1")]
    pub(super) parent: String,
    #[prost(message, optional, tag = "2")]
    pub(super) payload: Option<SecretPayload>,
}

/// Lists of secrets and of versions are asked for alike.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ListRequest {
    #[prost(string, tag = "1")]
    pub(super) parent: String,
    #[prost(int32, tag = "2")]
    pub(super) page_size: i32,
    #[prost(string, tag = "3")]
    pub(super) page_token: String,
}

/// Every other request: one resource, and for changes perhaps the state in which it must be.
#[derive(Clone, PartialEq, Message)]
pub(super) struct NamedRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) etag: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ListSecretsResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) secrets: Vec<Secret>,
    #[prost(string, tag = "2")]
    pub(super) next_page_token: String,
    #[prost(int32, tag = "3")]
    pub(super) total_size: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ListSecretVersionsResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) versions: Vec<SecretVersion>,
    #[prost(string, tag = "2")]
    pub(super) next_page_token: String,
    #[prost(int32, tag = "3")]
    pub(super) total_size: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AccessSecretVersionResponse {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) payload: Option<SecretPayload>,
}
