//! `google.protobuf.Any` for messages that hold a secret: not shown, and sharing the buffer of whoever made it.

use std::fmt::{Debug, Formatter, Result};

use bytes::Bytes;

/// A message of any type.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
#[prost(skip_debug)]
pub struct Any {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

impl Debug for Any {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Any").field("type_url", &self.type_url).finish_non_exhaustive()
    }
}
