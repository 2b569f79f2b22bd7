//! What an Envoy sends, or whoever speaks like one.

use keyferry_fuzz::{Fuzz, protobuf};
use keyferry_proto::envoy::config::core::v3::Node;
use keyferry_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use keyferry_proto::google::rpc::Status;
use prost::Message as _;

use super::check_lengths;
use super::messages::{Asked, Names, check_type, version_info};
use crate::gateway::sds::ResourceName;

#[test]
fn what_is_kept_of_an_envoys_words_is_short_and_of_one_line() {
    let node = || Some(Node { id: "envoy-1".to_owned() });
    let refusal = || Some(Status { message: "no\nkey".to_owned(), ..Status::default() });
    let whole = DiscoveryRequest {
        version_info: "ca=1@a,web=3+5@b".to_owned(),
        node: node(),
        resource_names: vec!["web".to_owned(), "ca".to_owned()],
        type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".to_owned(),
        response_nonce: "7".to_owned(),
        error_detail: refusal(),
    };
    let delta = DeltaDiscoveryRequest {
        node: node(),
        resource_names_subscribe: vec!["web".to_owned()],
        resource_names_unsubscribe: vec!["ca".to_owned()],
        initial_resource_versions: [("web".to_owned(), "3+5@b".to_owned())].into(),
        error_detail: refusal(),
        ..DeltaDiscoveryRequest::default()
    };
    Fuzz::new("envoy").seeds([whole.encode_to_vec(), delta.encode_to_vec()]).mutated_by(&protobuf).holds(|input| {
        let whole = DiscoveryRequest::decode(input).map(Asked::from).ok();
        let delta = DeltaDiscoveryRequest::decode(input).map(Asked::from).ok();
        let heard = [whole, delta].into_iter().flatten().filter(|asked| {
            assert!(asked.node.chars().count() <= 256);
            let refusal = asked.refusal.as_deref().unwrap_or("-");
            assert!(!refusal.is_empty() && refusal.chars().count() <= 256 && !refusal.contains(char::is_control));
            let told = |(name, version): &(&String, &String)| !name.contains([',', '=']) && !version.contains(',');
            if asked.has.iter().all(|pair| told(&pair)) {
                let text = version_info(asked.has.iter().map(|(name, version)| (name.as_str(), version.as_str())));
                let again = Asked::from(DiscoveryRequest { version_info: text, ..DiscoveryRequest::default() });
                assert_eq!(again.has, asked.has);
            }
            let names = match &asked.names {
                Names::All(names) => names.iter().chain(&[]),
                Names::Changed { more, less } => more.iter().chain(less),
            };
            let known = names.clone().any(|name| ResourceName::parse(name).is_ok());
            check_type(&asked.type_url).is_ok() && check_lengths(names).is_ok() && known
        });
        (heard.count() > 0).into()
    });
}
