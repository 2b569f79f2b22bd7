//! Key Vault's events, in Event Grid's own schema and in that of CloudEvents. They are read leniently: samples of theirs
//! have spaces around keys and values.

use serde_json::{Map, Value};

use super::places::Places;
use super::told::{Told, time};
use crate::names::VersionId;
use crate::rotation::{Fact, Observation, Origin};

const HANDSHAKE: &str = "Microsoft.EventGrid.SubscriptionValidationEvent";

/// Whether the event asks to prove that deliveries are wanted, and with which code that is proven.
pub fn handshake(event: &Value) -> Option<&str> {
    let event = event.as_object()?;
    (kind(event)? == HANDSHAKE).then_some(())?;
    text(find(event, "data")?.as_object()?, "validationCode").filter(|code| !code.is_empty())
}

pub fn read(event: &Value, places: &Places) -> Told {
    let Some(event) = event.as_object() else { return Told::Unreadable("an event is not a JSON object") };
    let Some(kind) = kind(event) else { return Told::Unreadable("an event has no type") };
    let is_new = match kind {
        "Microsoft.KeyVault.SecretNewVersionCreated" => true,
        "Microsoft.KeyVault.SecretNearExpiry" | "Microsoft.KeyVault.SecretExpired" => false,
        _ => return Told::OfNoConcern,
    };
    let subject = find(event, "data").and_then(Value::as_object).and_then(Subject::of);
    let Some(subject) = subject else { return Told::Unreadable("an event does not say which secret it is about") };
    let secrets = places.vault(subject.vault, subject.secret);
    if secrets.is_empty() {
        return Told::OfNoConcern;
    }
    let Ok(version) = VersionId::exact(subject.version) else {
        return Told::Unreadable("an event's version is none that a key vault has");
    };
    let happened = text(event, "eventTime").or_else(|| text(event, "time")).and_then(time);
    let version = version.as_str().into();
    if is_new {
        return Told::Added { secrets, version, happened };
    }
    let fact = Fact::NearExpiry(version);
    Told::Fact(secrets, Observation { fact, origin: Origin::EventGrid, happened })
}

struct Subject<'a> {
    /// The vault's host, or its bare name.
    vault: &'a str,
    secret: &'a str,
    version: &'a str,
}

impl<'a> Subject<'a> {
    /// From the identifier, which says all in one, or from its parts.
    fn of(data: &'a Map<String, Value>) -> Option<Self> {
        let get = |name| text(data, name);
        if let Some(id) = get("Id") {
            let (vault, path) = id.strip_prefix("https://")?.split_once('/')?;
            let (secret, version) = path.strip_prefix("secrets/")?.split_once('/')?;
            return Some(Self { vault: vault.strip_suffix(":443").unwrap_or(vault), secret, version });
        }
        Some(Self { vault: get("VaultName")?, secret: get("ObjectName")?, version: get("Version")? })
    }
}

fn kind(event: &Map<String, Value>) -> Option<&str> {
    text(event, "eventType").or_else(|| text(event, "type"))
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    find(object, name)?.as_str().map(str::trim)
}

fn find<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let same = |key: &str| key.trim().eq_ignore_ascii_case(name);
    object.iter().find(|(key, _)| same(key)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::super::places::tests::places;
    use super::*;
    use crate::clock::Timestamp;

    const VERSION: &str = "0123456789abcdef0123456789abcdef";

    fn data(id: &str) -> Value {
        json!({ "Id": id, "VaultName": "shop", "ObjectType": "Secret", "ObjectName": "db", "Version": VERSION })
    }

    fn id() -> String {
        format!("https://shop.vault.azure.net/secrets/db/{VERSION}")
    }

    fn added(told: &Told) -> Option<(&str, &str, Option<Timestamp>)> {
        match told {
            Told::Added { secrets, version, happened } => Some((secrets[0].as_str(), version, *happened)),
            Told::Fact(..) | Told::OfNoConcern | Told::Unreadable(_) => None,
        }
    }

    #[test]
    fn both_schemas_say_the_same() {
        let happened = Some(Timestamp::from_micros(1_795_168_800_123_456));
        let kind = "Microsoft.KeyVault.SecretNewVersionCreated";
        for event in [
            json!({ "eventType": kind, "eventTime": "2026-11-20T10:00:00.1234567Z", "data": data(&id()) }),
            json!({ "specversion": "1.0", "type": kind, "time": "2026-11-20T10:00:00.1234567Z", "data": data(&id()) }),
        ] {
            assert_eq!(
                added(&read(&event, &places())),
                Some(("stores/azure/secrets/db", VERSION, happened)),
                "{event}"
            );
        }
    }

    #[test]
    fn spaces_around_keys_and_values_are_nobodys_name() {
        let parts = json!({
            "VaultName ": " shop", "ObjectType": "Secret", "ObjectName ": "db", "Version": format!(" {VERSION}"),
            "NBF": "1559081980", "EXP": "1559082102",
        });
        let event = json!({ "eventType": "Microsoft.KeyVault.SecretNewVersionCreated", "data": parts });
        assert_eq!(added(&read(&event, &places())), Some(("stores/azure/secrets/db", VERSION, None)));
    }

    #[test]
    fn a_version_that_ends_soon_or_has_ended_is_told_so() {
        for kind in ["Microsoft.KeyVault.SecretNearExpiry", "Microsoft.KeyVault.SecretExpired"] {
            let Told::Fact(secrets, told) = read(&json!({ "type": kind, "data": data(&id()) }), &places()) else {
                panic!("{kind}")
            };
            assert_eq!((secrets[0].as_str(), told.fact), ("stores/azure/secrets/db", Fact::NearExpiry(VERSION.into())));
        }
    }

    #[test]
    fn what_is_not_about_a_secret_of_these_stores_changes_nothing() {
        let of = |kind: &str, id: &str| read(&json!({ "eventType": kind, "data": data(id) }), &places());
        for kind in [
            "Microsoft.KeyVault.KeyNewVersionCreated",
            "Microsoft.KeyVault.CertificateNewVersionCreated",
            "Microsoft.KeyVault.VaultAccessPolicyChanged",
            "Microsoft.Storage.BlobCreated",
        ] {
            assert_eq!(of(kind, &id()), Told::OfNoConcern, "{kind}");
        }
        let kind = "Microsoft.KeyVault.SecretNewVersionCreated";
        for vault in ["other.vault.azure.net", "shop.vault.azure.net.evil.example", "shop", "shop.vault.azure.net@evil"]
        {
            let told = of(kind, &format!("https://{vault}/secrets/db/{VERSION}"));
            assert_eq!(told, if vault == "shop" { of(kind, &id()) } else { Told::OfNoConcern }, "{vault}");
        }
        for unreadable in [
            "http://shop.vault.azure.net/secrets/db/0123456789abcdef0123456789abcdef",
            "https://shop.vault.azure.net/keys/db/0123456789abcdef0123456789abcdef",
            "https://shop.vault.azure.net/secrets/db",
            "https://shop.vault.azure.net/secrets/db/",
            "https://shop.vault.azure.net/secrets/db/../keys",
            "",
        ] {
            assert!(matches!(of(kind, unreadable), Told::Unreadable(_)), "{unreadable}");
        }
        for shape in [json!(null), json!(1), json!([]), json!({}), json!({ "eventType": 7 }), json!({ "type": kind })] {
            assert!(matches!(read(&shape, &places()), Told::Unreadable(_)), "{shape}");
        }
    }

    #[test]
    fn a_handshake_is_answered_with_its_own_code_only() {
        let ask = |data: Value| json!({ "eventType": HANDSHAKE, "data": data });
        assert_eq!(handshake(&ask(json!({ "validationCode": "512d38b6" }))), Some("512d38b6"));
        for bad in [json!({}), json!({ "validationCode": "" }), json!({ "validationCode": 7 }), json!("x")] {
            assert_eq!(handshake(&ask(bad)), None);
        }
        assert_eq!(handshake(&json!({ "eventType": "other", "data": { "validationCode": "1" } })), None);
    }
}
