//! Which secret of which store a cloud's own name means. Only the stores that a source may tell of are known here.

use std::collections::BTreeMap;

use crate::names::{SecretName, StoreName};

/// Where a store's secrets are, in its cloud's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Google's events name a project by its number mostly, and sometimes by its id.
    Google { project: String, number: u64, location: Option<String> },
    /// The host of the vault's URL.
    Vault { host: String },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places(BTreeMap<StoreName, Place>);

impl Places {
    pub fn new(stores: impl IntoIterator<Item = (StoreName, Place)>) -> Self {
        Self(stores.into_iter().collect())
    }

    pub fn stores(&self) -> impl Iterator<Item = &StoreName> {
        self.0.keys()
    }

    /// `projects/{project}/secrets/{secret}`, or with `locations/{location}` between them.
    pub(super) fn google(&self, name: &str) -> Vec<SecretName> {
        let parsed = name.strip_prefix("projects/").and_then(|rest| rest.split_once("/secrets/"));
        let Some((parent, id)) = parsed else { return Vec::new() };
        let (told_project, told_location) = match parent.split_once("/locations/") {
            Some((project, location)) => (project, Some(location)),
            None => (parent, None),
        };
        self.find(id, |place| {
            let Place::Google { project, number, location } = place else { return false };
            let same_project = told_project == project || told_project == number.to_string();
            same_project && told_location == location.as_deref()
        })
    }

    /// By the vault's host or its bare name, which are the same in any case.
    pub(super) fn vault(&self, told: &str, id: &str) -> Vec<SecretName> {
        self.find(id, |place| {
            let Place::Vault { host } = place else { return false };
            let known = if told.contains('.') { host } else { host.split('.').next().unwrap_or(host) };
            known.eq_ignore_ascii_case(told)
        })
    }

    /// Two stores may be two ways to one place.
    fn find(&self, id: &str, fits: impl Fn(&Place) -> bool) -> Vec<SecretName> {
        let stores = self.0.iter().filter(|(_, place)| fits(place));
        stores.filter_map(|(store, _)| store.secret(id).ok()).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(in super::super) fn places() -> Places {
        let google = Place::Google { project: "shop-prod".to_owned(), number: 123_456_789_012, location: None };
        let vault = Place::Vault { host: "shop.vault.azure.net".to_owned() };
        Places::new([(StoreName::from_id("gcp").unwrap(), google), (StoreName::from_id("azure").unwrap(), vault)])
    }

    #[test]
    fn two_stores_of_one_vault_are_both_told() {
        let place = Place::Vault { host: "shop.vault.azure.net".to_owned() };
        let stores = ["one", "two"].map(|id| (StoreName::from_id(id).unwrap(), place.clone()));
        let secrets = ["stores/one/secrets/db", "stores/two/secrets/db"].map(|name| SecretName::parse(name).unwrap());
        assert_eq!(Places::new(stores).vault("SHOP.vault.azure.net", "db"), secrets);
    }

    #[test]
    fn a_regional_store_has_the_secrets_of_its_location_only() {
        let location = Some("europe-west3".to_owned());
        let place = Place::Google { project: "shop-prod".to_owned(), number: 1, location };
        let places = Places::new([(StoreName::from_id("west").unwrap(), place)]);
        let of = |parent: &str| places.google(&format!("{parent}/secrets/db"));
        let found = SecretName::parse("stores/west/secrets/db").unwrap();
        assert_eq!(of("projects/1/locations/europe-west3"), [found]);
        assert_eq!(of("projects/1/locations/europe-west4"), []);
        assert_eq!(of("projects/1"), []);
    }
}
