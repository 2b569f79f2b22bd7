//! Every method the broker answers, declared once. What is not in this table does not exist.

use std::sync::LazyLock;

use crate::admission::{Action, QuotaClass};

/// What holds for all calls of one method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// `/package.Service/Method`, as in the request line.
    pub path: &'static str,
    pub service: Service,
    pub access: Access,
    pub quota: QuotaClass,
    pub audit: AuditKind,
    /// A server stream: the call's deadline is its client's affair.
    pub streams: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Secrets,
    Tokens,
    Rotations,
    Operator,
    Envoy,
    Health,
    Reflection,
}

/// What a call needs before its handler runs; the handler asks the gate for the action on each resource it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing beyond what the listener demanded: health checks.
    Anyone,
    /// Some authenticated caller.
    Caller,
    /// A caller whom policy permits this action.
    Policy(Action),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditKind {
    /// One record per call.
    Recorded,
    /// Health probes and schema look-ups: no decision, no secret, and many.
    Quiet,
}

/// What a request without a payload may be: decoded, one of many small parts takes many times its size.
const WITHOUT_PAYLOAD: usize = 64 * 1024;

impl Method {
    /// How large a request may be, where any may be that large.
    pub fn request_bytes(&self, any: usize) -> usize {
        let carries_payload = self.access == Access::Policy(Action::AddSecretVersion);
        if carries_payload || self.service == Service::Envoy { any } else { any.min(WITHOUT_PAYLOAD) }
    }

    /// `package.Service/Method`, as in records, metrics and traces.
    pub fn name(&self) -> &'static str {
        self.path.trim_start_matches('/')
    }

    pub fn action(&self) -> Option<Action> {
        match self.access {
            Access::Policy(action) => Some(action),
            Access::Anyone | Access::Caller => None,
        }
    }
}

/// The method with exactly this path, and its place in the table.
pub fn find(path: &str) -> Option<(usize, &'static Method)> {
    // Lengths tell most of them apart before a byte is compared.
    METHODS.iter().enumerate().find(|(_, method)| method.path == path)
}

/// The names of all methods in the table's order.
pub static METHOD_NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| METHODS.iter().map(Method::name).collect());

use Access::{Anyone, Caller, Policy};
use AuditKind::{Quiet, Recorded};
use QuotaClass as Q;
use Service as S;

pub const METHODS: &[Method] = &[
    row("/keyferry.v1.SecretService/GetSecret", S::Secrets, Policy(Action::GetSecret), Q::Read, Recorded),
    row("/keyferry.v1.SecretService/BatchGetSecrets", S::Secrets, Policy(Action::GetSecret), Q::Read, Recorded),
    row("/keyferry.v1.SecretService/ListSecrets", S::Secrets, Policy(Action::ListSecrets), Q::Read, Recorded),
    row(
        "/keyferry.v1.SecretService/ListSecretVersions",
        S::Secrets,
        Policy(Action::ListSecretVersions),
        Q::Read,
        Recorded,
    ),
    row(
        "/keyferry.v1.SecretService/AddSecretVersion",
        S::Secrets,
        Policy(Action::AddSecretVersion),
        Q::Change,
        Recorded,
    ),
    row(
        "/keyferry.v1.SecretService/EnableSecretVersion",
        S::Secrets,
        Policy(Action::EnableSecretVersion),
        Q::Change,
        Recorded,
    ),
    row(
        "/keyferry.v1.SecretService/DisableSecretVersion",
        S::Secrets,
        Policy(Action::DisableSecretVersion),
        Q::Change,
        Recorded,
    ),
    row("/keyferry.v1.TokenService/ListDatabaseRoles", S::Tokens, Policy(Action::ListDatabaseRoles), Q::Read, Recorded),
    row("/keyferry.v1.TokenService/MintDatabaseToken", S::Tokens, Policy(Action::MintDatabaseToken), Q::Mint, Recorded),
    row("/keyferry.v1.TokenService/RenewLease", S::Tokens, Policy(Action::RenewLease), Q::Mint, Recorded),
    row("/keyferry.v1.TokenService/RevokeLease", S::Tokens, Policy(Action::RevokeLease), Q::Mint, Recorded),
    row("/keyferry.v1.TokenService/ListLeases", S::Tokens, Policy(Action::ListLeases), Q::Read, Recorded),
    row("/keyferry.v1.RotationService/RotateSecret", S::Rotations, Policy(Action::RotateSecret), Q::Operate, Recorded),
    row("/keyferry.v1.RotationService/GetRotation", S::Rotations, Policy(Action::GetRotation), Q::Operate, Recorded),
    row("/keyferry.v1.RotationService/ListRotations", S::Rotations, Policy(Action::GetRotation), Q::Operate, Recorded),
    row(
        "/keyferry.v1.RotationService/CancelRotation",
        S::Rotations,
        Policy(Action::CancelRotation),
        Q::Operate,
        Recorded,
    ),
    row(
        "/keyferry.v1.RotationService/RetireRotation",
        S::Rotations,
        Policy(Action::RetireRotation),
        Q::Operate,
        Recorded,
    ),
    stream(row(
        "/keyferry.v1.RotationService/WatchRotations",
        S::Rotations,
        Policy(Action::WatchRotations),
        Q::Read,
        Recorded,
    )),
    row(
        "/keyferry.v1.RotationService/AcknowledgeRotation",
        S::Rotations,
        Policy(Action::WatchRotations),
        Q::Read,
        Recorded,
    ),
    row(
        "/keyferry.v1.RotationService/ListSubscribers",
        S::Rotations,
        Policy(Action::ListSubscribers),
        Q::Operate,
        Recorded,
    ),
    row("/keyferry.v1.OperatorService/WhoAmI", S::Operator, Policy(Action::WhoAmI), Q::Read, Recorded),
    row("/keyferry.v1.OperatorService/ExplainAccess", S::Operator, Policy(Action::ExplainSelf), Q::Operate, Recorded),
    row("/keyferry.v1.OperatorService/GetStatus", S::Operator, Policy(Action::GetStatus), Q::Operate, Recorded),
    row("/keyferry.v1.OperatorService/RefreshSecret", S::Operator, Policy(Action::RefreshSecret), Q::Operate, Recorded),
    stream(row(
        "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
        S::Envoy,
        Policy(Action::GetSecret),
        Q::Read,
        Recorded,
    )),
    stream(row(
        "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
        S::Envoy,
        Policy(Action::GetSecret),
        Q::Read,
        Recorded,
    )),
    row(
        "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets",
        S::Envoy,
        Policy(Action::GetSecret),
        Q::Read,
        Recorded,
    ),
    row("/grpc.health.v1.Health/Check", S::Health, Anyone, Q::None, Quiet),
    row("/grpc.health.v1.Health/List", S::Health, Anyone, Q::None, Quiet),
    stream(row("/grpc.health.v1.Health/Watch", S::Health, Anyone, Q::None, Quiet)),
    stream(row("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", S::Reflection, Caller, Q::None, Quiet)),
];

const fn row(path: &'static str, service: Service, access: Access, quota: QuotaClass, audit: AuditKind) -> Method {
    Method { path, service, access, quota, audit, streams: false }
}

const fn stream(method: Method) -> Method {
    Method { streams: true, ..method }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn holds_exactly_the_methods_of_the_contract() {
        let files = FileDescriptorSet::decode(keyferry_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut declared = BTreeSet::new();
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    declared.insert((
                        format!("/{}.{}/{}", file.package(), service.name(), method.name()),
                        method.server_streaming(),
                    ));
                }
            }
        }
        let listed: BTreeSet<_> = METHODS
            .iter()
            .filter(|method| !method.path.starts_with("/grpc."))
            .map(|method| (method.path.to_owned(), method.streams))
            .collect();
        assert_eq!(declared, listed);
        assert_eq!(METHODS.iter().map(|method| method.path).collect::<BTreeSet<_>>().len(), METHODS.len());
    }

    #[test]
    fn finds_each_by_its_exact_path_only() {
        for (place, method) in METHODS.iter().enumerate() {
            assert_eq!(find(method.path), Some((place, method)));
            assert_eq!(find(method.name()), None, "without its slash");
            assert_eq!(find(&method.path.to_ascii_lowercase()), None);
            assert_eq!(find(&format!("{}/", method.path)), None);
        }
    }
}
