//! Spanner: an OAuth token of the role's service account, good for data and for nothing else.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::google::RoleAccount;
use super::settings::{GoogleRole, SpannerSettings};
use crate::databases::tokens::{Connection, Credential, Engine, Facts, Kind, Minter, Order, Proof, Token, Usage};
use crate::databases::users::Account;
use crate::error::Failure;
use crate::names::RoleName;
use crate::providers::credential::ServiceAccount;
use crate::providers::guard::Guard;
use crate::secrets::SecretBytes;

const SCOPE: &str = "https://www.googleapis.com/auth/spanner.data";

#[derive(Debug)]
pub struct SpannerMinter {
    facts: Facts,
    account: RoleAccount,
    connection: Connection,
}

impl SpannerMinter {
    pub fn new(
        name: RoleName,
        database: &SpannerSettings,
        role: GoogleRole,
        account: Arc<ServiceAccount>,
        guard: Arc<Guard>,
    ) -> Self {
        let facts = Facts {
            description: role.description,
            kind: Kind::Spanner,
            engine: Engine::Spanner,
            proof: Proof::AccessToken,
            database: database.database.clone(),
            default_ttl: role.default_ttl,
            max_ttl: role.max_ttl,
            accepts_public_key: false,
        };
        // Whoever creates a session names the role; IAM says whether it may.
        let creator_role = role.creator_role.map(|creator| ("creator_role".to_owned(), creator));
        let connection = Connection {
            engine: Engine::Spanner,
            host: database.host.clone(),
            port: database.port,
            database: database.database.clone(),
            ca: Arc::default(),
            tls_server_name: String::new(),
            instance: String::new(),
            parameters: creator_role.into_iter().collect(),
        };
        Self { facts, account: RoleAccount::new(name, account, guard), connection }
    }
}

impl Minter for SpannerMinter {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    /// IAM tells whether it would make a token by making one; that one goes nowhere.
    fn rehearse<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move { self.account.token(SCOPE, order).await.map(drop) })
    }

    fn mint<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<Token, Failure>> {
        Box::pin(async move {
            let token = self.account.token(SCOPE, order).await?;
            Ok(Token {
                user: self.account.email().to_owned(),
                credential: Credential::AccessToken {
                    token: SecretBytes::new(token.value().as_bytes().to_vec()),
                    usage: Usage::Bearer,
                },
                id: None,
                expires: token.expires,
                connection: self.connection.clone(),
            })
        })
    }

    fn account(&self) -> Account {
        super::account(self.account.guard())
    }
}
