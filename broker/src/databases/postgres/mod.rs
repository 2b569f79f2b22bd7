//! PostgreSQL: a role for each lease.

mod creation;
mod failure;
mod logins;
mod pool;
mod removal;
mod sql;
mod tls;
mod verifier;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::TryStreamExt as _;
use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio_postgres::SimpleQueryMessage;

use self::creation::Creations;
use self::pool::Pool;
use self::sql::{identifier, literal};
use self::verifier::verifier;
use super::settings::PostgresSettings;
use super::users::{Account, NewUser, Tag, Tagged, UserName, Users};
use crate::clock::{SharedClock, Timestamp};
use crate::error::Failure;
use crate::names::{DatabaseName, SecretName};
use crate::secrets::{Provider, SecretBytes};

/// One configured server, by way of the broker's own login to it.
pub struct Postgres {
    name: DatabaseName,
    settings: PostgresSettings,
    login: Login,
    ca: String,
    pool: Pool,
    /// By role.
    creations: BTreeMap<String, Creations>,
    account: Mutex<Account>,
    clock: SharedClock,
}

/// How the broker proves itself; read anew at each login.
#[allow(missing_debug_implementations, reason = "a store has none")]
pub enum Login {
    Certificate { certificate: PathBuf, key: PathBuf },
    Password { store: Arc<dyn Provider>, secret: SecretName },
}

#[derive(Debug, Error)]
pub enum OpenError {
    #[error("cannot read the CAs in {}; the file must exist and be readable", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("cannot use the CAs in {}; write certificates in PEM there", .0.display())]
    Ca(PathBuf, #[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Postgres {
    /// Does not connect yet: a database that is down keeps nothing else from being served.
    pub fn open(
        name: DatabaseName,
        settings: PostgresSettings,
        login: Login,
        clock: SharedClock,
    ) -> Result<Self, OpenError> {
        let path = &settings.ca;
        let ca = std::fs::read_to_string(path).map_err(|error| OpenError::Read(path.clone(), error))?;
        tls::roots(ca.as_bytes()).map_err(|error| OpenError::Ca(path.clone(), error))?;
        let pool = Pool::new(settings.connections);
        let creations =
            settings.roles.keys().map(|role| (role.clone(), Creations::new(settings.connections))).collect();
        Ok(Self { name, settings, login, ca, pool, creations, account: Mutex::default(), clock })
    }

    /// The certificates that the server's chains to, for those who connect.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// Statements sent together are one transaction.
    async fn execute(&self, statements: &str) -> Result<(), Failure> {
        self.with_connection(async |client| {
            client.batch_execute(statements).await.map_err(|error| self.statement_failure(error))
        })
        .await
    }
}

impl Users for Postgres {
    fn probe(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.execute(""))
    }

    fn create<'a>(&'a self, user: &'a NewUser) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.create_user(user))
    }

    fn set_password<'a>(&'a self, user: &'a UserName, password: &'a SecretBytes) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let (user, verifier) = (identifier(user.as_str()), literal(&verifier(password.expose())?));
            self.execute(&format!("ALTER ROLE {user} PASSWORD {verifier}")).await
        })
    }

    fn extend<'a>(&'a self, user: &'a UserName, until: Timestamp) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let (user, until) = (identifier(user.as_str()), literal(&until.to_string()));
            self.execute(&format!("ALTER ROLE {user} VALID UNTIL {until}")).await
        })
    }

    fn remove<'a>(&'a self, user: &'a UserName, heir: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.remove_user(user, heir))
    }

    fn list<'a>(&'a self, show: &'a mut (dyn FnMut(Tagged) + Send)) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.with_connection(async move |client| {
            let query = "SELECT rolname, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname ^@ 'kf_'";
            let messages = client.simple_query_raw(query).await.map_err(|error| self.statement_failure(error))?;
            let mut messages = pin!(messages);
            while let Some(message) = messages.try_next().await.map_err(|error| self.statement_failure(error))? {
                tagged(&message).into_iter().for_each(&mut *show);
            }
            Ok(())
        }))
    }

    fn account(&self) -> Account {
        self.account.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn tagged(message: &SimpleQueryMessage) -> Option<Tagged> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    Some(Tagged { name: UserName::parse(row.get(0)?)?, tag: Tag::parse(row.get(1)?)? })
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Postgres({})", self.name)
    }
}
