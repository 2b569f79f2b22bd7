//! Client certificates that live minutes, for users that are there already: PostgreSQL and CockroachDB.

mod authority;
mod ca_key;
mod client_key;
#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests;

use futures_util::future::BoxFuture;

pub use self::authority::Authority;
use self::authority::{Signed, Wanted};
use super::server::{CaError, connection, shown};
use super::settings::{CertificateSettings, MappedRole};
use super::tokens::{Connection, Credential, Engine, Facts, Kind, Minter, Order, Proof, Token};
use super::users::Account;
use crate::error::Failure;

/// One role.
#[derive(Debug)]
pub struct CertificateMinter {
    facts: Facts,
    user: String,
    connection: Connection,
    authority: Authority,
}

impl CertificateMinter {
    pub fn open(
        kind: Kind,
        settings: &CertificateSettings,
        role: &MappedRole,
        authority: Authority,
    ) -> Result<Self, CaError> {
        let facts = Facts {
            description: role.description.clone(),
            kind,
            engine: Engine::Postgres,
            proof: Proof::Certificate,
            database: settings.server.database.clone(),
            default_ttl: role.default_ttl,
            max_ttl: role.max_ttl,
            accepts_public_key: true,
        };
        Ok(Self { facts, user: role.user.clone(), connection: connection(&settings.server)?, authority })
    }
}

impl Minter for CertificateMinter {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn rehearse<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            if let Some(key) = &order.client_key {
                client_key::accept(key, &self.user)?;
            }
            self.authority.check(order.now).await
        })
    }

    fn mint<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<Token, Failure>> {
        Box::pin(async move {
            let (public, key) = match &order.client_key {
                Some(own) => (client_key::accept(own, &self.user)?, None),
                None => client_key::generate().map(|(public, key)| (public, Some(key)))?,
            };
            let caller = shown(&order.caller);
            let wanted = Wanted { user: &self.user, caller: &caller, key: &public, now: order.now, until: order.until };
            let Signed { chain, serial, expires } = self.authority.sign(&wanted).await?;
            let mut connection = self.connection.clone();
            connection.parameters.insert("application_name".to_owned(), caller);
            let credential = Credential::Certificate { chain, key };
            Ok(Token { user: self.user.clone(), credential, id: Some(serial.to_string()), expires, connection })
        })
    }

    fn account(&self) -> Account {
        self.authority.account()
    }
}
