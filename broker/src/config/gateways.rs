//! `[gateways.NAME]`: what the broker itself brings up to date elsewhere.

use std::collections::BTreeMap;

use super::credentials::{Names, credential_name};
use super::databases::{scope_of_a_resource, secret};
use super::kind::{Kind, duration, made_of, one_of, text};
use super::reader::Reader;
use super::section::Section;
use super::stores::{StoreSettings, check_credential};
use super::url::service_url;
use crate::gateway::api_management::{GatewaySettings, Source};
use crate::names::{SecretName, StoreName};
use crate::providers::credential::Cloud;
use crate::rotation::subscribers::SubscriberName;

const ABOUT: &str = "An instance of Azure API Management whose named values come from Azure Key Vault. The broker has it \
                     take a new version out of the vault as soon as that is current, and retires the old one after \
                     that. `docs/apim.md` tells how.";

const MOST_NAMED_VALUES: usize = 500;

pub(super) fn read(
    reader: &mut Reader<'_>,
    stores: &BTreeMap<StoreName, StoreSettings>,
    credentials: &Names,
) -> BTreeMap<SubscriberName, GatewaySettings> {
    reader.named("gateways", ABOUT, gateway_name, |s| read_one(s, stores, credentials))
}

fn read_one(
    s: &mut Section<'_, '_>,
    stores: &BTreeMap<StoreName, StoreSettings>,
    credentials: &Names,
) -> GatewaySettings {
    s.chosen("kind", &one_of([("api-management", ())]), "What it is.");
    let service = s.required("service", service(), "Its resource id, as `az apim show --query id` prints it.");
    let credential =
        s.with_default("credential", credential_name(), "azure", "The entry of `[credentials]` to call Azure with.");
    check_credential(s, "credential", &credential, Cloud::Azure, credentials);
    let named_values = s.map(
        "named_values",
        named_value,
        &secret(),
        "The id of each named value, and the secret that it is of, in a store of kind `azure`.",
    );
    GatewaySettings {
        service,
        credential,
        named_values: check_named_values(s, named_values, stores),
        management_url: s.with_default(
            "management_url",
            service_url(),
            "https://management.azure.com",
            "Azure's management API; sovereign clouds have others.",
        ),
        scope: s.with_default(
            "scope",
            scope_of_a_resource(),
            "https://management.azure.com/.default",
            "What tokens are for; sovereign clouds have others.",
        ),
        request_timeout: s.with_default(
            "request_timeout",
            duration("1s", "1m"),
            "10s",
            "How long Azure has for one answer. A refresh under way is asked about for two minutes.",
        ),
    }
}

fn check_named_values(
    s: &mut Section<'_, '_>,
    named_values: BTreeMap<String, String>,
    stores: &BTreeMap<StoreName, StoreSettings>,
) -> BTreeMap<String, Source> {
    let key = "named_values";
    if named_values.is_empty() && s.are_sound(&[key]) {
        s.refuse_missing(key, "has nothing to refresh; write { \"NAME\" = \"stores/NAME/secrets/NAME\" }");
    }
    if named_values.len() > MOST_NAMED_VALUES {
        s.refuse(key, &format!("has more than {MOST_NAMED_VALUES}; write another [gateways.NAME] for the rest"));
    }
    let mut sources = BTreeMap::new();
    for (id, secret) in named_values {
        let Ok(secret) = SecretName::parse(&secret) else { continue };
        let store = secret.store_id();
        match stores.get(secret.store()) {
            Some(StoreSettings::Azure(azure)) => {
                let identifier = format!("{}/secrets/{}", azure.vault_url.trim_end_matches('/'), secret.id());
                sources.insert(id, Source { secret, identifier });
            }
            Some(_) => {
                let message = format!(
                    "{id} is of {secret}, which is not in Azure Key Vault; named values can be of no other store"
                );
                s.refuse(key, &message);
            }
            None => {
                s.refuse(key, &format!("{id} is of a store that is not declared; add [stores.{store}]"));
            }
        }
    }
    sources
}

fn gateway_name(name: &str) -> Result<SubscriberName, String> {
    made_of(name, 63, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')?;
    SubscriberName::parse(name).map_err(|error| error.to_string())
}

/// Part of a URL.
fn named_value(id: &str) -> Result<(), String> {
    made_of(id, 256, |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))?;
    if id.starts_with('.') { Err("begins with a dot".to_owned()) } else { Ok(()) }
}

fn service() -> Kind<String> {
    let expects = "a resource id, /subscriptions/ID/resourceGroups/NAME/providers/Microsoft.ApiManagement/service/NAME";
    text(expects, "resource id", |id| {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '(' | ')');
        let part = |part: &str| made_of(part, 90, fits).map(|()| !part.starts_with('.'));
        let parts = match *id.split('/').collect::<Vec<_>>() {
            ["", "subscriptions", subscription, "resourceGroups", group, "providers", kind, "service", name]
                if kind.eq_ignore_ascii_case("Microsoft.ApiManagement") =>
            {
                [subscription, group, name]
            }
            _ => return Err("is not the resource id of an API Management service".to_owned()),
        };
        for text in parts {
            if !part(text)? {
                return Err("has a part that begins with a dot".to_owned());
            }
        }
        Ok(())
    })
}
