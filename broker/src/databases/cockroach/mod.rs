//! CockroachDB: tokens of our issuer, which the cluster verifies at each login.

use futures_util::future::BoxFuture;

use super::issuer::{Claims, Issuer, Signed};
use super::server::{CaError, connection, shown};
use super::settings::{JwtSettings, MappedRole};
use super::tokens::{Connection, Credential, Engine, Facts, Kind, Minter, Order, Proof, Token, Usage};
use super::users::Account;
use crate::error::Failure;

/// One role.
#[derive(Debug)]
pub struct JwtMinter {
    facts: Facts,
    user: String,
    audience: String,
    connection: Connection,
    issuer: Issuer,
}

impl JwtMinter {
    pub fn open(settings: &JwtSettings, role: &MappedRole, issuer: Issuer) -> Result<Self, CaError> {
        let mut connection = connection(&settings.server)?;
        // Without it the cluster takes the token for a password.
        connection.parameters.insert("options".to_owned(), "--crdb:jwt_auth_enabled=true".to_owned());
        let facts = Facts {
            description: role.description.clone(),
            kind: Kind::Cockroach,
            engine: Engine::Postgres,
            proof: Proof::AccessToken,
            database: settings.server.database.clone(),
            default_ttl: role.default_ttl,
            max_ttl: role.max_ttl,
            accepts_public_key: false,
        };
        Ok(Self { facts, user: role.user.clone(), audience: settings.audience.clone(), connection, issuer })
    }
}

impl Minter for JwtMinter {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn rehearse<'a>(&'a self, _order: &'a Order) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.issuer.check())
    }

    fn mint<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<Token, Failure>> {
        Box::pin(async move {
            let claims = Claims {
                subject: &self.user,
                audience: &self.audience,
                caller: &order.caller,
                role: order.role.as_str(),
                now: order.now,
                until: order.until,
            };
            let Signed { token, id, expires } = self.issuer.issue(&claims).await?;
            let mut connection = self.connection.clone();
            connection.parameters.insert("application_name".to_owned(), shown(&order.caller));
            let credential = Credential::AccessToken { token, usage: Usage::Password };
            Ok(Token { user: self.user.clone(), credential, id: Some(id), expires, connection })
        })
    }

    fn account(&self) -> Account {
        self.issuer.account()
    }
}
