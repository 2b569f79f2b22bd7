//! The configured databases: those with users for leases, each with the broker's own way to log in, and the roles whose
//! credentials end by themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::StartError;
use super::cloud_databases::Cloud;
use super::stores::Credentials;
use crate::clock::SharedClock;
use crate::databases::certificates::{Authority, CertificateMinter};
use crate::databases::cockroach::JwtMinter;
use crate::databases::issuer::Issuer;
use crate::databases::leases::Database;
use crate::databases::postgres::{Login, Postgres};
use crate::databases::tokens::{Kind, Minter, Tokens};
use crate::databases::{
    CertificateSettings, CockroachDatabase, DatabaseSettings, JwtSettings, LoginSettings, OwnSecret, PostgresDatabase,
    PostgresSettings, SigningSettings,
};
use crate::names::{DatabaseName, RoleName, SecretName, StoreName};
use crate::rotation::strategies::postgres::Logins;
use crate::secrets::Provider;

pub(super) type Minters = BTreeMap<RoleName, Arc<dyn Minter>>;

/// By what they are answered for.
pub(super) struct Databases {
    pub(super) leased: BTreeMap<DatabaseName, Database>,
    pub(super) tokens: Tokens,
    /// Where the users are whose passwords are rotated.
    pub(super) logins: BTreeMap<DatabaseName, Arc<dyn Logins>>,
    pub(super) issuer: Option<Issuer>,
    /// What follows the secrets that the broker works with.
    pub(super) keepers: Vec<BoxFuture<'static, ()>>,
}

pub(super) fn open(
    settings: BTreeMap<DatabaseName, DatabaseSettings>,
    issuer: Option<&SigningSettings>,
    stores: &BTreeMap<StoreName, Arc<dyn Provider>>,
    credentials: &Credentials,
    clock: &SharedClock,
) -> Result<Databases, StartError> {
    let mut opening = Opening { stores, clock, minters: Minters::new(), keepers: Vec::new(), logins: BTreeMap::new() };
    let issuer = issuer.map(|issuer| opening.issuer(issuer, longest_life(&settings))).transpose()?;
    let mut leased = BTreeMap::new();
    for (name, settings) in settings {
        let cloud = Cloud { name: &name, credentials, clock };
        let certificates = match settings {
            DatabaseSettings::Postgres(PostgresDatabase { users, certificates }) => {
                if let Some(users) = users {
                    leased.insert(name.clone(), opening.users(&name, users)?);
                }
                certificates.map(|settings| (Kind::Postgres, settings))
            }
            DatabaseSettings::Cockroach(CockroachDatabase { tokens, certificates }) => {
                if let Some((tokens, issuer)) = tokens.zip(issuer.as_ref()) {
                    opening.tokens(&name, &tokens, issuer)?;
                }
                certificates.map(|settings| (Kind::Cockroach, settings))
            }
            DatabaseSettings::CloudSql(settings) => {
                opening.minters.extend(cloud.cloud_sql(settings)?);
                None
            }
            DatabaseSettings::Spanner(settings) => {
                opening.minters.extend(cloud.spanner(&settings)?);
                None
            }
            DatabaseSettings::Azure(settings) => {
                opening.minters.extend(cloud.azure(&settings)?);
                None
            }
        };
        if let Some((kind, settings)) = certificates {
            opening.certificates(&name, kind, &settings)?;
        }
    }
    let Opening { minters, keepers, logins, .. } = opening;
    Ok(Databases { leased, tokens: Tokens::new(minters, Arc::clone(clock)), logins, issuer, keepers })
}

/// Of any token that the issuer signs.
fn longest_life(settings: &BTreeMap<DatabaseName, DatabaseSettings>) -> Duration {
    let tokens = settings.values().filter_map(|settings| match settings {
        DatabaseSettings::Cockroach(CockroachDatabase { tokens, .. }) => tokens.as_ref(),
        DatabaseSettings::Postgres(_)
        | DatabaseSettings::CloudSql(_)
        | DatabaseSettings::Spanner(_)
        | DatabaseSettings::Azure(_) => None,
    });
    tokens.flat_map(|tokens| tokens.roles.values()).map(|role| role.max_ttl).max().unwrap_or_default()
}

struct Opening<'a> {
    stores: &'a BTreeMap<StoreName, Arc<dyn Provider>>,
    clock: &'a SharedClock,
    minters: Minters,
    keepers: Vec<BoxFuture<'static, ()>>,
    logins: BTreeMap<DatabaseName, Arc<dyn Logins>>,
}

impl Opening<'_> {
    fn issuer(&mut self, settings: &SigningSettings, longest_life: Duration) -> Result<Issuer, StartError> {
        let secret = self.secret(&settings.secret).map_err(StartError::IssuerStore)?;
        let issuer = Issuer::new(settings, secret, longest_life, Arc::clone(self.clock));
        self.keepers.push(Box::pin(issuer.clone().keep()));
        Ok(issuer)
    }

    fn users(&mut self, name: &DatabaseName, settings: PostgresSettings) -> Result<Database, StartError> {
        let login = match settings.login.clone() {
            LoginSettings::Certificate { certificate, key } => Login::Certificate { certificate, key },
            LoginSettings::Password(secret) => {
                let OwnSecret { store, name: secret } = self.secret_of(name, &secret)?;
                Login::Password { store, secret }
            }
        };
        let users = Postgres::open(name.clone(), settings.clone(), login, Arc::clone(self.clock))
            .map_err(|error| StartError::Database(name.clone(), error))?;
        let ca = users.ca().into();
        let users = Arc::new(users);
        self.logins.insert(name.clone(), Arc::clone(&users) as Arc<dyn Logins>);
        Ok(Database { settings, users, ca })
    }

    fn tokens(&mut self, name: &DatabaseName, settings: &JwtSettings, issuer: &Issuer) -> Result<(), StartError> {
        for (id, role) in &settings.roles {
            let minter = JwtMinter::open(settings, role, issuer.clone());
            let minter = minter.map_err(|error| StartError::DatabaseCa(name.clone(), error))?;
            self.add(name, id, Arc::new(minter));
        }
        Ok(())
    }

    fn certificates(
        &mut self,
        name: &DatabaseName,
        kind: Kind,
        settings: &CertificateSettings,
    ) -> Result<(), StartError> {
        let certificate = self.secret_of(name, &settings.authority.certificate)?;
        let key = self.secret_of(name, &settings.authority.key)?;
        let authority = Authority::new(certificate, key, Arc::clone(self.clock));
        self.keepers.push(Box::pin(authority.clone().keep()));
        for (id, role) in &settings.roles {
            let minter = CertificateMinter::open(kind, settings, role, authority.clone());
            let minter = minter.map_err(|error| StartError::DatabaseCa(name.clone(), error))?;
            self.add(name, id, Arc::new(minter));
        }
        Ok(())
    }

    fn add(&mut self, name: &DatabaseName, id: &str, minter: Arc<dyn Minter>) {
        // The configuration has checked the id.
        if let Ok(role) = name.role(id) {
            self.minters.insert(role, minter);
        }
    }

    fn secret_of(&self, database: &DatabaseName, secret: &SecretName) -> Result<OwnSecret, StartError> {
        self.secret(secret).map_err(|store| StartError::DatabaseStore(database.clone(), store))
    }

    /// Or the store that is missing.
    fn secret(&self, name: &SecretName) -> Result<OwnSecret, String> {
        let store = self.stores.get(name.store()).cloned().ok_or_else(|| name.store().to_owned())?;
        Ok(OwnSecret { store, name: name.clone() })
    }
}
