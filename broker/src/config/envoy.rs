//! `[envoy.NAME]`

use std::collections::BTreeMap;

use super::databases::secret;
use super::kind::one_of;
use super::reader::Reader;
use super::section::Section;
use super::stores::StoreSettings;
use crate::gateway::sds::{Kind, Resource, ResourceName};
use crate::names::{SecretName, StoreName};

const ABOUT: &str = "A resource that Envoys fetch by its NAME from Envoy's secret discovery service, which this broker \
                     speaks on its gRPC port. `docs/envoy.md` tells how.";

pub(super) fn read(
    reader: &mut Reader<'_>,
    stores: &BTreeMap<StoreName, StoreSettings>,
) -> BTreeMap<ResourceName, Resource> {
    let name = |id: &str| ResourceName::parse(id).map_err(|error| error.to_string());
    let resources = reader.named("envoy", ABOUT, name, |s| read_one(s, stores));
    // What is left out was refused with a message.
    resources.into_iter().filter_map(|(name, resource)| Some((name, resource?))).collect()
}

fn read_one(s: &mut Section<'_, '_>, stores: &BTreeMap<StoreName, StoreSettings>) -> Option<Resource> {
    let kinds = Kind::ALL.map(|kind| (kind.as_str(), kind));
    let kind = s.chosen(
        "kind",
        &one_of(kinds),
        "What Envoy takes it for: a certificate with its key, the CA certificates that peers are verified with, or any \
         other value.",
    );
    let name = s.required(
        "secret",
        secret(),
        "`stores/NAME/secrets/NAME`, whose newest version is published. Certificates are in PEM, the leaf first.",
    );
    let key = s.variant("tls-certificate", kind.map(|kind| kind == Kind::TlsCertificate), |s| {
        s.optional("key", &secret(), "The secret with the private key in PEM, where it is not in `secret` as well.")
    });
    let mut named = |key: &str, name: &str| {
        let secret = SecretName::parse(name).ok()?;
        if !stores.contains_key(secret.store()) {
            let store = secret.store_id();
            s.refuse(key, &format!("{secret} is in a store that is not declared; add [stores.{store}]"));
        }
        Some(secret)
    };
    let key = key.and_then(|name| named("key", &name));
    let secret = named("secret", &name)?;
    if key.as_ref() == Some(&secret) {
        s.refuse("key", "is the same as secret; leave it out, and the key is looked for there");
    }
    Some(Resource { kind: kind?, secret, key })
}
