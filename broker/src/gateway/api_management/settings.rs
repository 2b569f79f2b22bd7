//! What an operator says of one instance of API Management.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::names::SecretName;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySettings {
    /// `/subscriptions/{}/resourceGroups/{}/providers/Microsoft.ApiManagement/service/{}`
    pub service: String,
    /// A name under `[credentials]`.
    pub credential: String,
    /// By their ids.
    pub named_values: BTreeMap<String, Source>,
    pub management_url: String,
    /// What the credential's tokens are for.
    pub scope: String,
    pub request_timeout: Duration,
}

/// The secret that a named value has its value from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub secret: SecretName,
    /// As Key Vault identifies it, without a version.
    pub identifier: String,
}
