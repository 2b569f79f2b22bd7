//! Credentials that end by themselves. They make no lease and write no state, so minting them scales with replicas.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::users::Account;
use crate::admission::{Action, Permit, Resource};
use crate::audit::Receipt;
use crate::clock::{SharedClock, Timestamp};
use crate::error::{Failure, Reason};
use crate::names::{DatabaseName, RoleName};
use crate::secrets::SecretBytes;

/// The roles whose credentials end by themselves.
#[derive(Clone, Debug)]
pub struct Tokens(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    roles: BTreeMap<RoleName, Arc<dyn Minter>>,
    databases: BTreeMap<DatabaseName, Kind>,
    clock: SharedClock,
}

/// Makes the credentials of one role. Failures carry our reasons and never another side's text.
pub trait Minter: Send + Sync + fmt::Debug {
    fn facts(&self) -> &Facts;

    /// Refuses what a mint would refuse, and makes nothing.
    fn rehearse<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<(), Failure>>;

    /// The credential ends at `order.until` or before.
    fn mint<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<Token, Failure>>;

    /// How whatever it needs has answered so far.
    fn account(&self) -> Account;
}

/// What everybody who may ask is told of a role.
#[derive(Clone, Debug)]
pub struct Facts {
    pub description: String,
    pub kind: Kind,
    pub engine: Engine,
    pub proof: Proof,
    /// Empty: the caller chooses.
    pub database: String,
    pub default_ttl: Duration,
    pub max_ttl: Duration,
    pub accepts_public_key: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Postgres,
    Cockroach,
    CloudSql,
    Spanner,
    AzurePostgres,
    AzureMysql,
    AzureSql,
}

/// The protocol that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Postgres,
    Mysql,
    SqlServer,
    Spanner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    Certificate,
    AccessToken,
}

/// What a caller wishes for. Its own credential's end bounds what it gets.
#[derive(Debug)]
pub struct Wish {
    pub ttl: Option<Duration>,
    pub credential_ends: Timestamp,
    pub client_key: Option<ClientKey>,
}

/// The caller's own key: then no private one is made or sent.
#[derive(Debug)]
pub enum ClientKey {
    /// SubjectPublicKeyInfo in PEM.
    Public(String),
    /// A PKCS #10 request in PEM.
    Request(String),
}

/// A wish that may be granted.
#[derive(Debug)]
pub struct Order {
    pub role: RoleName,
    pub caller: Arc<str>,
    pub now: Timestamp,
    pub until: Timestamp,
    /// The same, had the caller's own credential no end.
    pub wished: Timestamp,
    pub client_key: Option<ClientKey>,
}

#[allow(missing_debug_implementations, reason = "holds a secret")]
pub struct Token {
    pub user: String,
    pub credential: Credential<SecretBytes>,
    /// As the database's own audit shows it. `None`: it shows nothing that the broker knows of.
    pub id: Option<String>,
    pub expires: Timestamp,
    pub connection: Connection,
}

/// What proves the user, its secret part as `S`.
#[allow(missing_debug_implementations, reason = "holds a secret")]
pub enum Credential<S> {
    Certificate {
        /// In PEM, leaf first, without the root.
        chain: String,
        /// PKCS #8 in PEM; absent where the caller has its own.
        key: Option<S>,
    },
    AccessToken {
        token: S,
        usage: Usage,
    },
}

/// How an access token is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Password,
    Bearer,
    FederatedLogin,
}

/// Everything needed to connect, beside the credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    pub engine: Engine,
    pub host: String,
    pub port: u16,
    pub database: String,
    /// Certificates in PEM that the server's chains to. Empty: the system's roots.
    pub ca: Arc<str>,
    /// The name that the server's certificate carries. Empty: the host.
    pub tls_server_name: String,
    /// As connectors name it. Empty: none.
    pub instance: String,
    pub parameters: BTreeMap<String, String>,
}

/// A token that was minted and has not left yet.
#[must_use = "a token is for its caller"]
#[allow(missing_debug_implementations, reason = "holds a secret")]
pub struct Issued(Token);

/// A token that may leave.
#[allow(missing_debug_implementations, reason = "holds a secret")]
pub struct Disclosed {
    pub user: String,
    pub credential: Credential<Bytes>,
    pub expires: Timestamp,
    pub connection: Connection,
}

const SHORTEST: Duration = Duration::from_secs(1);

impl Tokens {
    pub fn new(roles: BTreeMap<RoleName, Arc<dyn Minter>>, clock: SharedClock) -> Self {
        let databases = roles
            .iter()
            .filter_map(|(name, minter)| Some((DatabaseName::from_id(name.database_id()).ok()?, minter.facts().kind)));
        Self(Arc::new(Inner { databases: databases.collect(), roles, clock }))
    }

    /// By name.
    pub fn roles(&self) -> impl Iterator<Item = (&RoleName, &Facts)> {
        self.0.roles.iter().map(|(name, minter)| (name, minter.facts()))
    }

    pub fn has(&self, role: &RoleName) -> bool {
        self.0.roles.contains_key(role)
    }

    /// The databases of these roles, each with how it answers.
    pub fn databases(&self) -> impl Iterator<Item = (&DatabaseName, Kind, Account)> {
        self.0.databases.iter().map(|(name, kind)| (name, *kind, self.account(name)))
    }

    /// Everything that a mint would check, and nothing that it would make.
    pub async fn rehearse(&self, permit: &Permit, wish: Wish) -> Result<(), Failure> {
        let (minter, order) = self.order(permit, wish)?;
        minter.rehearse(&order).await
    }

    pub async fn mint(&self, permit: &Permit, wish: Wish) -> Result<Issued, Failure> {
        let (minter, order) = self.order(permit, wish)?;
        minter.mint(&order).await.map(Issued)
    }

    fn order(&self, permit: &Permit, wish: Wish) -> Result<(&dyn Minter, Order), Failure> {
        let misfit = || Failure::new(Reason::Internal, "the permit is for something else; report this");
        let Resource::DatabaseRole(role) = permit.resource() else { return Err(misfit()) };
        let minter = self.0.roles.get(role).filter(|_| permit.action() == Action::MintDatabaseToken);
        let minter = minter.ok_or_else(misfit)?;
        let facts = minter.facts();
        let ttl = wish.ttl.unwrap_or(facts.default_ttl);
        if ttl < SHORTEST {
            let description = "is shorter than a second; write 1s or more";
            return Err(Failure::bad_field(Reason::InvalidArgument, "ttl", description));
        }
        if wish.client_key.is_some() && !facts.accepts_public_key {
            let message = format!("for {role} no key of the caller's is used; leave public_key_pem and csr_pem out");
            return Err(Failure::new(Reason::UnsupportedByStore, message));
        }
        let now = self.0.clock.now();
        let wished = now.plus(ttl.min(facts.max_ttl));
        let order = Order {
            role: role.clone(),
            caller: Arc::clone(permit.caller()),
            now,
            until: wished.min(wish.credential_ends),
            wished,
            client_key: wish.client_key,
        };
        Ok((&**minter, order))
    }

    /// The worst of its roles'.
    fn account(&self, database: &DatabaseName) -> Account {
        let of_this = self.0.roles.iter().filter(|(name, _)| name.database() == database.as_str());
        of_this.map(|(_, minter)| minter.account()).fold(Account::default(), |worst, next| Account {
            success: worst.success.max(next.success),
            failure: worst.failure.or(next.failure),
        })
    }
}

impl Issued {
    pub fn id(&self) -> Option<&str> {
        self.0.id.as_deref()
    }

    /// The receipt proves that the mint is on record.
    pub fn disclose(self, on_record: &Receipt) -> Disclosed {
        let Token { user, credential, id: _, expires, connection } = self.0;
        let credential = match credential {
            Credential::Certificate { chain, key } => {
                Credential::Certificate { chain, key: key.map(|key| key.disclose(on_record)) }
            }
            Credential::AccessToken { token, usage } => {
                Credential::AccessToken { token: token.disclose(on_record), usage }
            }
        };
        Disclosed { user, credential, expires, connection }
    }
}
