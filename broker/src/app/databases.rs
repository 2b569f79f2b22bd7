//! The configured databases, each with the broker's own way to log in.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::StartError;
use crate::clock::SharedClock;
use crate::databases::leases::Database;
use crate::databases::postgres::{Login, Postgres};
use crate::databases::{DatabaseSettings, LoginSettings};
use crate::names::{DatabaseName, StoreName};
use crate::secrets::Provider;

pub(super) fn open(
    settings: BTreeMap<DatabaseName, DatabaseSettings>,
    stores: &BTreeMap<StoreName, Arc<dyn Provider>>,
    clock: &SharedClock,
) -> Result<BTreeMap<DatabaseName, Database>, StartError> {
    let mut databases = BTreeMap::new();
    for (name, settings) in settings {
        let login = match settings.login.clone() {
            LoginSettings::Certificate { certificate, key } => Login::Certificate { certificate, key },
            LoginSettings::Password(secret) => {
                let store = stores.get(secret.store()).cloned();
                let store = store.ok_or_else(|| StartError::DatabaseStore(name.clone(), secret.store().to_owned()))?;
                Login::Password { store, secret }
            }
        };
        let users = Postgres::open(name.clone(), settings.clone(), login, Arc::clone(clock))
            .map_err(|error| StartError::Database(name.clone(), error))?;
        let ca = users.ca().into();
        databases.insert(name, Database { settings, users: Arc::new(users), ca });
    }
    Ok(databases)
}
