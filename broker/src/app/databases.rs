//! The configured databases: those with users for leases, each with the broker's own way to log in, and the roles whose
//! credentials end by themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::StartError;
use crate::clock::SharedClock;
use crate::databases::leases::Database;
use crate::databases::postgres::{Login, Postgres};
use crate::databases::tokens::{Minter, Tokens};
use crate::databases::{DatabaseSettings, LoginSettings, PostgresDatabase};
use crate::names::{DatabaseName, RoleName, StoreName};
use crate::rotation::strategies::postgres::Logins;
use crate::secrets::Provider;

/// By what they are answered for.
pub(super) struct Databases {
    pub(super) leased: BTreeMap<DatabaseName, Database>,
    pub(super) tokens: Tokens,
    /// Where the users are whose passwords are rotated.
    pub(super) logins: BTreeMap<DatabaseName, Arc<dyn Logins>>,
}

pub(super) fn open(
    settings: BTreeMap<DatabaseName, DatabaseSettings>,
    stores: &BTreeMap<StoreName, Arc<dyn Provider>>,
    clock: &SharedClock,
) -> Result<Databases, StartError> {
    let (mut leased, mut logins) = (BTreeMap::new(), BTreeMap::new());
    let minters: BTreeMap<RoleName, Arc<dyn Minter>> = BTreeMap::new();
    for (name, settings) in settings {
        let DatabaseSettings::Postgres(PostgresDatabase { users: Some(settings), .. }) = settings else { continue };
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
        let users = Arc::new(users);
        logins.insert(name.clone(), Arc::clone(&users) as Arc<dyn Logins>);
        leased.insert(name, Database { settings, users, ca });
    }
    Ok(Databases { leased, tokens: Tokens::new(minters, Arc::clone(clock)), logins })
}
