//! Deliveries, whose senders are known by their tokens and whose bodies are taken as any stranger's.

use keyferry_fuzz::Fuzz;

use super::event_grid::events;
use super::pubsub::Delivery;
use crate::names::{SecretName, StoreName, VersionId};
use crate::rotation::sources::{Place, Places, Told, azure, google};
use crate::rotation::{Fact, Observation};

const WORDS: [&str; 24] = [
    "\"eventType\":",
    "\"type\":",
    "\"data\":",
    "\"Id\":",
    "\"VaultName\":",
    "\"ObjectName \":",
    "\"Version\":",
    "\"Microsoft.KeyVault.SecretNewVersionCreated\"",
    "\"Microsoft.KeyVault.SecretExpired\"",
    "\"validationCode\":",
    "\"Microsoft.EventGrid.SubscriptionValidationEvent\"",
    "https://shop.vault.azure.net/secrets/",
    "shop",
    ":443",
    "\"message\":",
    "\"attributes\":",
    "\"subscription\":",
    "\"SECRET_VERSION_ADD\"",
    "\"SECRET_DELETE\"",
    "\"secretId\":",
    "\"versionId\":",
    "projects/shop-prod/secrets/db",
    "/versions/7",
    "/locations/",
];

#[test]
fn a_delivery_tells_of_secrets_of_its_own_stores_or_of_none() {
    let google = Place::Google { project: "shop-prod".to_owned(), number: 123_456_789_012, location: None };
    let vault = Place::Vault { host: "shop.vault.azure.net".to_owned() };
    let places =
        Places::new([(StoreName::from_id("gcp").unwrap(), google), (StoreName::from_id("azure").unwrap(), vault)]);
    Fuzz::new("webhooks").words(&WORDS).allocating(1 << 16, 512).holds(|input| {
        let pushed = Delivery::read(input).map(|delivery| google::read(&delivery.message.attributes, &places));
        let events = events(input).unwrap_or_default();
        let codes = events.iter().filter_map(azure::handshake).inspect(|code| assert!(!code.is_empty())).count();
        let told: Vec<_> = events.iter().map(|event| azure::read(event, &places)).collect();
        let known = |told: &Told, store: &str| match told {
            Told::Fact(secrets, Observation { fact, .. }) => {
                is_of(secrets, store);
                version_of(fact).is_none_or(|version| VersionId::exact(version).is_ok())
            }
            Told::Added { secrets, version, .. } => {
                is_of(secrets, store);
                VersionId::exact(version).is_ok()
            }
            Told::OfNoConcern | Told::Unreadable(_) => false,
        };
        let told = told.iter().filter(|told| known(told, "stores/azure")).count();
        let pushed = pushed.iter().filter(|told| known(told, "stores/gcp")).count();
        (codes + told + pushed > 0).into()
    });
}

fn is_of(secrets: &[SecretName], store: &str) {
    assert!(!secrets.is_empty() && secrets.iter().all(|secret| secret.store() == store));
}

fn version_of(fact: &Fact) -> Option<&str> {
    match fact {
        Fact::VersionAdded(mark) => Some(&mark.id),
        Fact::VersionEnabled(id) | Fact::VersionDisabled(id) | Fact::VersionDestroyed(id) | Fact::NearExpiry(id) => {
            Some(id)
        }
        Fact::SecretDeleted | Fact::SecretUpdated => None,
    }
}
