//! Cloud SQL: what IAM database authentication takes for a role's service account, a login token or a certificate that
//! holds one.

mod admin_api;
mod instance;
mod key;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use x509_parser::parse_x509_certificate;
use x509_parser::pem::parse_x509_pem;

use super::check_end;
use super::google::RoleAccount;
use super::settings::{CloudSqlEngine, CloudSqlProof, CloudSqlSettings, GoogleRole};
use crate::clock::{SharedClock, Timestamp};
use crate::databases::tokens::{Connection, Credential, Engine, Facts, Kind, Minter, Order, Proof, Token, Usage};
use crate::databases::users::Account;
use crate::error::{Failure, Reason};
use crate::names::RoleName;
use crate::providers::credential::{Broken, ServiceAccount};
use crate::providers::guard::Guard;
use crate::secrets::SecretBytes;

use instance::Instance;
use key::Key;

/// Admits to logging in, and to nothing else.
const LOGIN_SCOPE: &str = "https://www.googleapis.com/auth/sqlservice.login";
/// The proxy on each instance, which takes certificates and speaks for them to the engine.
const PROXY_PORT: u16 = 3307;

/// One database, for all of its roles.
#[derive(Clone, Debug)]
pub struct CloudSql {
    pub settings: Arc<CloudSqlSettings>,
    pub guard: Arc<Guard>,
    pub clock: SharedClock,
}

#[derive(Debug)]
pub struct CloudSqlMinter {
    facts: Facts,
    user: String,
    proof: CloudSqlProof,
    account: RoleAccount,
    instance: Instance,
    database: CloudSql,
}

impl CloudSqlMinter {
    pub fn new(
        name: RoleName,
        proof: CloudSqlProof,
        role: GoogleRole,
        account: Arc<ServiceAccount>,
        database: CloudSql,
    ) -> Result<Self, Broken> {
        let CloudSql { settings, guard, clock } = &database;
        let engine = match settings.engine {
            CloudSqlEngine::Postgres => Engine::Postgres,
            CloudSqlEngine::Mysql => Engine::Mysql,
        };
        let facts = Facts {
            description: role.description,
            kind: Kind::CloudSql,
            engine,
            proof: match proof {
                CloudSqlProof::Token => Proof::AccessToken,
                CloudSqlProof::Certificate => Proof::Certificate,
            },
            database: settings.database.clone(),
            default_ttl: role.default_ttl,
            max_ttl: role.max_ttl,
            accepts_public_key: proof == CloudSqlProof::Certificate,
        };
        let instance = Instance::new(&name, Arc::clone(&account), settings, Arc::clone(guard), Arc::clone(clock))?;
        let user = user_of(account.email(), settings.engine);
        let account = RoleAccount::new(name, account, Arc::clone(guard));
        Ok(Self { facts, user, proof, account, instance, database })
    }

    async fn token(&self, order: &Order) -> Result<Token, Failure> {
        // The way there first: without it a token is of no use.
        let connection = self.connection(order).await?;
        let login = self.account.token(LOGIN_SCOPE, order).await?;
        let token = SecretBytes::new(login.value().as_bytes().to_vec());
        let credential = Credential::AccessToken { token, usage: Usage::Password };
        Ok(Token { user: self.user.clone(), credential, id: None, expires: login.expires, connection })
    }

    /// The token goes into the certificate, so that it opens no more than that one login, and both must live.
    async fn certificate(&self, order: &Order) -> Result<Token, Failure> {
        let key = Key::of(order.client_key.as_ref()).await?;
        let connection = self.connection(order).await?;
        let login = self.account.token(LOGIN_SCOPE, order).await?;
        let life = login.expires.since(order.now);
        let chain = self.instance.certificate(&key.public, &login, life).await?;
        let expires = end_of(&chain, &key).ok_or_else(|| not_for_the_key(order))?.min(login.expires);
        check_end(order, expires)?;
        let credential = Credential::Certificate { chain, key: key.private };
        Ok(Token { user: self.user.clone(), credential, id: None, expires, connection })
    }

    async fn connection(&self, order: &Order) -> Result<Connection, Failure> {
        let settings = &self.database.settings;
        let place = self.instance.place().await?;
        let (engine, port, mut parameters) = match settings.engine {
            // An instance has a CA of its own unless it has a name, so whose certificate it is says which it is.
            CloudSqlEngine::Postgres if place.name.is_empty() => {
                (Engine::Postgres, 5432, vec![("sslmode", "verify-ca")])
            }
            CloudSqlEngine::Postgres => (Engine::Postgres, 5432, vec![("sslmode", "verify-full")]),
            CloudSqlEngine::Mysql if place.name.is_empty() => (Engine::Mysql, 3306, vec![("ssl-mode", "VERIFY_CA")]),
            CloudSqlEngine::Mysql => (Engine::Mysql, 3306, vec![("ssl-mode", "VERIFY_IDENTITY")]),
        };
        if engine == Engine::Mysql && self.proof == CloudSqlProof::Token {
            parameters.push(("default-auth", "mysql_clear_password"));
        }
        let mut parameters: std::collections::BTreeMap<_, _> =
            parameters.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        if engine == Engine::Postgres {
            parameters.insert("application_name".into(), super::application_name(&order.caller));
        }
        let port = match self.proof {
            CloudSqlProof::Token => port,
            CloudSqlProof::Certificate => PROXY_PORT,
        };
        Ok(Connection {
            engine,
            host: settings.host.clone().unwrap_or_else(|| place.host.clone()),
            port: settings.port.unwrap_or(port),
            database: settings.database.clone(),
            ca: Arc::clone(&place.ca),
            tls_server_name: place.name.clone(),
            instance: settings.instance.to_string(),
            parameters,
        })
    }
}

impl Minter for CloudSqlMinter {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    /// IAM tells whether it would make a token by making one; that one goes nowhere.
    fn rehearse<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            key::check(order.client_key.as_ref())?;
            self.connection(order).await?;
            self.account.token(LOGIN_SCOPE, order).await.map(drop)
        })
    }

    fn mint<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<Token, Failure>> {
        Box::pin(async move {
            match self.proof {
                CloudSqlProof::Token => self.token(order).await,
                CloudSqlProof::Certificate => self.certificate(order).await,
            }
        })
    }

    fn account(&self) -> Account {
        super::account(self.account.guard())
    }
}

/// As IAM authentication names a service account in each engine.
fn user_of(email: &str, engine: CloudSqlEngine) -> String {
    match engine {
        CloudSqlEngine::Postgres => email.strip_suffix(".gserviceaccount.com").unwrap_or(email),
        CloudSqlEngine::Mysql => email.split('@').next().unwrap_or(email),
    }
    .to_owned()
}

/// `None`: it is no certificate, or one for another key.
fn end_of(chain: &str, key: &Key) -> Option<Timestamp> {
    let (_, pem) = parse_x509_pem(chain.as_bytes()).ok()?;
    let (_, certificate) = parse_x509_certificate(&pem.contents).ok()?;
    let (_, public) = parse_x509_pem(key.public.as_bytes()).ok()?;
    let end = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    (certificate.public_key().raw == public.contents).then(|| Timestamp::from_secs(end))
}

fn not_for_the_key(order: &Order) -> Failure {
    let message = format!(
        "the Admin API's certificate for {} cannot be read, or is for another key; check that admin_url is Google's",
        order.role
    );
    Failure::new(Reason::ProviderUnavailable, message)
}
