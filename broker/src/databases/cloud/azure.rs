//! Azure's databases: an Entra token of the role's own identity, for the databases' scope.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::SKEW;
use super::settings::{AzureEngine, AzureRole, AzureSettings};
use crate::clock::Timestamp;
use crate::databases::tokens::{Connection, Credential, Engine, Facts, Kind, Minter, Order, Proof, Token, Usage};
use crate::databases::users::Account;
use crate::error::{Failure, Reason};
use crate::names::RoleName;
use crate::providers::credential;
use crate::providers::guard::{Guard, Operation};
use crate::secrets::SecretBytes;

/// A managed identity's token is the same for all who ask, until little is left of it.
const LEAST_LIFE: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub struct AzureMinter {
    name: RoleName,
    facts: Facts,
    role: AzureRole,
    scope: String,
    identity: Arc<credential::Credential>,
    guard: Arc<Guard>,
    connection: Connection,
}

impl AzureMinter {
    /// `ca` is what the server's certificate chains to; the system's roots where it is empty.
    pub fn new(
        name: RoleName,
        database: &AzureSettings,
        role: AzureRole,
        ca: Arc<str>,
        identity: Arc<credential::Credential>,
        guard: Arc<Guard>,
    ) -> Self {
        let (kind, engine, parameters) = match database.engine {
            AzureEngine::Postgres => (Kind::AzurePostgres, Engine::Postgres, vec![("sslmode", "verify-full")]),
            // The token travels as a clear-text password, which MySQL's clients have to be told.
            AzureEngine::Mysql => (
                Kind::AzureMysql,
                Engine::Mysql,
                vec![("ssl-mode", "VERIFY_IDENTITY"), ("default-auth", "mysql_clear_password")],
            ),
            AzureEngine::SqlServer => {
                (Kind::AzureSql, Engine::SqlServer, vec![("Encrypt", "true"), ("TrustServerCertificate", "false")])
            }
        };
        let facts = Facts {
            description: role.description.clone(),
            kind,
            engine,
            proof: Proof::AccessToken,
            database: database.database.clone(),
            // Entra decides, so that no wish is better than one.
            default_ttl: role.longest_life,
            max_ttl: role.longest_life,
            accepts_public_key: false,
        };
        let connection = Connection {
            engine,
            host: database.host.clone(),
            port: database.port,
            database: database.database.clone(),
            ca,
            tls_server_name: String::new(),
            instance: String::new(),
            parameters: parameters.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        };
        Self { name, facts, role, scope: database.scope.clone(), identity, guard, connection }
    }

    /// Entra's life for a token cannot be shortened, so one that lives too long stays here.
    fn check_end(&self, order: &Order, expires: Timestamp) -> Result<(), Failure> {
        let granted = expires.since(order.now);
        let shown = granted.as_secs();
        let wish = order.wished.since(order.now);
        let is_asked = wish < self.role.longest_life;
        let least = if is_asked { wish / 2 } else { LEAST_LIFE };
        if granted < least.min(self.role.longest_life / 2) {
            let message = format!(
                "Entra's token for {} has no more than {shown} s left, and is the same for everybody until it is \
                 renewed; try again in a minute",
                self.name
            );
            return Err(Failure::new(Reason::ProviderUnavailable, message));
        }
        if granted > wish + SKEW && is_asked {
            let message = format!(
                "is shorter than the {shown} s that Entra's tokens for {} live, and nobody can shorten them; leave it \
                 out, or write {shown}s or more",
                self.name
            );
            return Err(Failure::bad_field(Reason::InvalidArgument, "ttl", message));
        }
        if granted > wish + SKEW {
            let message = format!(
                "Entra's token for {} lives {shown} s, longer than the role's longest_life, and nobody can shorten it; an \
                 operator raises that, or gives the role a federated application in place of a managed identity, \
                 whose tokens live a day",
                self.name
            );
            return Err(Failure::new(Reason::UnsupportedByStore, message));
        }
        if expires > order.until.plus(SKEW) && !self.role.may_outlive_caller {
            let message = format!(
                "Entra's token for {} lives {shown} s, longer than the caller's own credential, and nobody can shorten \
                 it; mint with a credential that lives longer, or an operator sets may_outlive_caller",
                self.name
            );
            return Err(Failure::new(Reason::UnsupportedByStore, message));
        }
        Ok(())
    }

    /// Asked for anew at each mint: an application's token is then the caller's alone.
    async fn token(&self, order: &Order) -> Result<credential::Token, Failure> {
        let ask = || self.identity.ask(&self.scope);
        let token = self.guard.call(Operation::Access, self.name.as_str(), ask).await?;
        self.check_end(order, token.expires)?;
        Ok(token)
    }
}

impl Minter for AzureMinter {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Entra tells whether it would grant a token by granting one; that one goes nowhere.
    fn rehearse<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move { self.token(order).await.map(drop) })
    }

    fn mint<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<Token, Failure>> {
        Box::pin(async move {
            let token = self.token(order).await?;
            let usage = match self.connection.engine {
                Engine::SqlServer => Usage::FederatedLogin,
                Engine::Postgres | Engine::Mysql | Engine::Spanner => Usage::Password,
            };
            let mut connection = self.connection.clone();
            if connection.engine == Engine::Postgres {
                connection.parameters.insert("application_name".into(), super::application_name(&order.caller));
            }
            Ok(Token {
                user: self.role.user.clone(),
                credential: Credential::AccessToken {
                    token: SecretBytes::new(token.value().as_bytes().to_vec()),
                    usage,
                },
                id: None,
                expires: token.expires,
                connection,
            })
        })
    }

    fn account(&self) -> Account {
        super::account(&self.guard)
    }
}
