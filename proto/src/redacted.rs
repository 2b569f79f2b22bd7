//! `Debug` for the messages that carry secrets. The generator leaves it out for every message with a field marked
//! `debug_redact`, so a new one does not compile into others until it is written here.

use std::fmt::{Debug, Formatter, Result};

use crate::envoy::config::core::v3::DataSource;
use crate::v1::{
    AccessTokenCredential, AddSecretVersionRequest, CertificateCredential, ExaminedToken, GetSecretResponse,
    PasswordCredential,
};

impl Debug for GetSecretResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        // The checksum is left out too: it tells a short or guessable payload.
        f.debug_struct("GetSecretResponse")
            .field("name", &self.name)
            .field("payload", &Redacted)
            .field("source", &self.source())
            .field("load_time", &self.load_time)
            .field("revision", &self.revision)
            .field("epoch", &self.epoch)
            .field("fresh_until_time", &self.fresh_until_time)
            .field("create_time", &self.create_time)
            .field("expire_time", &self.expire_time)
            .field("content_type", &self.content_type)
            .finish_non_exhaustive()
    }
}

impl Debug for AddSecretVersionRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AddSecretVersionRequest")
            .field("parent", &self.parent)
            .field("payload", &Redacted)
            .field("allow_missing", &self.allow_missing)
            .field("labels", &self.labels)
            .field("request_id", &self.request_id)
            .field("validate_only", &self.validate_only)
            .finish_non_exhaustive()
    }
}

impl Debug for PasswordCredential {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("PasswordCredential").field("password", &Redacted).finish()
    }
}

impl Debug for CertificateCredential {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("CertificateCredential")
            .field("certificate_chain_pem", &self.certificate_chain_pem)
            .field("private_key_pem", &Redacted)
            .finish()
    }
}

impl Debug for AccessTokenCredential {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AccessTokenCredential").field("access_token", &Redacted).field("usage", &self.usage()).finish()
    }
}

impl Debug for ExaminedToken {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("ExaminedToken").field("token", &Redacted).field("certificate", &self.certificate).finish()
    }
}

impl Debug for DataSource {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("DataSource").field("specifier", &Redacted).finish()
    }
}

struct Redacted;

impl Debug for Redacted {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str("[redacted]")
    }
}
