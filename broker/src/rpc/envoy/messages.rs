//! The two variants of xDS as one: what is asked, and what is published.

use std::collections::BTreeMap;

use keyferry_proto::Any;
use keyferry_proto::envoy::config::core::v3::data_source::Specifier;
use keyferry_proto::envoy::config::core::v3::{DataSource, Node};
use keyferry_proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use keyferry_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, GenericSecret, Secret, TlsCertificate,
};
use keyferry_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use keyferry_proto::google::rpc::Status;
use prost::Message as _;

use super::offers::Offer;
use crate::audit::Receipt;
use crate::error::{Failure, Reason};
use crate::gateway::sds::Material;
use crate::secrets::SecretBytes;

const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// As much of an Envoy's refusal as is kept.
const MAX_REFUSAL: usize = 256;

/// One message of an Envoy.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) node: String,
    pub(super) type_url: String,
    /// Of the response that it answers; empty where it answers none.
    pub(super) nonce: String,
    /// Why it refuses that response.
    pub(super) refusal: Option<String>,
    pub(super) names: Names,
    /// What it has already, where it begins: versions by name.
    pub(super) has: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(super) enum Names {
    /// All that it wants from now on.
    All(Vec<String>),
    Changed {
        more: Vec<String>,
        less: Vec<String>,
    },
}

/// One message to an Envoy.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) nonce: String,
    pub(super) version: String,
    pub(super) resources: Vec<Resource>,
}

impl From<DiscoveryRequest> for Asked {
    fn from(request: DiscoveryRequest) -> Self {
        Self {
            node: node(request.node),
            type_url: request.type_url,
            nonce: request.response_nonce,
            refusal: refusal(request.error_detail),
            names: Names::All(request.resource_names),
            has: versions(&request.version_info),
        }
    }
}

impl From<DeltaDiscoveryRequest> for Asked {
    fn from(request: DeltaDiscoveryRequest) -> Self {
        Self {
            node: node(request.node),
            type_url: request.type_url,
            nonce: request.response_nonce,
            refusal: refusal(request.error_detail),
            names: Names::Changed { more: request.resource_names_subscribe, less: request.resource_names_unsubscribe },
            has: request.initial_resource_versions,
        }
    }
}

pub(super) fn state_of_the_world(published: Published) -> DiscoveryResponse {
    let Published { nonce, version, resources } = published;
    let resources = resources.into_iter().filter_map(|resource| resource.resource).collect();
    DiscoveryResponse { version_info: version, resources, type_url: TYPE.to_owned(), nonce }
}

pub(super) fn delta(published: Published) -> DeltaDiscoveryResponse {
    let Published { nonce, version, resources } = published;
    DeltaDiscoveryResponse { system_version_info: version, resources, type_url: TYPE.to_owned(), nonce }
}

/// Empty stands for the one type that the service has.
pub(super) fn check_type(type_url: &str) -> Result<(), Failure> {
    if type_url.is_empty() || type_url == TYPE {
        return Ok(());
    }
    let description = format!("is not {TYPE}, of which all resources here are");
    Err(Failure::bad_field(Reason::InvalidArgument, "type_url", description))
}

/// One text for what is there of several resources: `name=version`, with a comma between.
pub(super) fn version_info<'a>(resources: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    resources.map(|(name, version)| format!("{name}={version}")).collect::<Vec<_>>().join(",")
}

fn versions(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, version)| (name.to_owned(), version.to_owned())).collect()
}

fn node(node: Option<Node>) -> String {
    node.map(|node| node.id.chars().take(256).collect()).unwrap_or_default()
}

/// It goes to logs and to operators' screens.
fn refusal(status: Option<Status>) -> Option<String> {
    let message = status?.message;
    let printable = message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REFUSAL).collect();
    Some(if message.is_empty() { "no reason given".to_owned() } else { printable })
}

impl Offer {
    /// As Envoy takes it. The message is made in one buffer, which is zeroed like the values it is made of.
    pub(super) fn disclose(&self, receipt: &Receipt) -> Resource {
        let data =
            |bytes: &SecretBytes| Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes.disclose(receipt))) });
        let value = match &self.material {
            Material::TlsCertificate { chain, key } => {
                Type::TlsCertificate(TlsCertificate { certificate_chain: data(chain), private_key: data(key) })
            }
            Material::ValidationContext { ca } => {
                Type::ValidationContext(CertificateValidationContext { trusted_ca: data(ca) })
            }
            Material::Generic { secret } => Type::GenericSecret(GenericSecret { secret: data(secret) }),
        };
        let secret = Secret { name: self.name.to_string(), r#type: Some(value) };
        let value = SecretBytes::new(secret.encode_to_vec()).disclose(receipt);
        let any = Any { type_url: TYPE.to_owned(), value };
        Resource { version: self.version.clone(), resource: Some(any), name: self.name.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_as_one_version_is_read_back_as_each() {
        let told = version_info([("ca", "1@a"), ("web", "3+5@b")].into_iter());
        assert_eq!(told, "ca=1@a,web=3+5@b");
        let read = versions(&told);
        assert_eq!(
            read.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect::<Vec<_>>(),
            [("ca", "1@a"), ("web", "3+5@b")]
        );
        assert!(versions("").is_empty() && versions("another server's").is_empty());
    }

    #[test]
    fn a_refusal_is_kept_short_and_on_one_line() {
        let status = |message: &str| Some(Status { message: message.to_owned(), ..Status::default() });
        assert_eq!(refusal(None), None);
        assert_eq!(refusal(status("")), Some("no reason given".to_owned()));
        assert_eq!(refusal(status("a\nb\u{1b}[31m")), Some("a b [31m".to_owned()));
        assert_eq!(refusal(status(&"x".repeat(9999))).map(|text| text.len()), Some(MAX_REFUSAL));
    }
}
