//! Who exists at Google, who may act as whom, and which access tokens are out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use keyferry_broker::clock::Timestamp;
use serde_json::{Value, json};

use super::{Google, GoogleService, PoolProvider};
use crate::doubles::identity::keys::random_hex;

pub(super) const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";

#[derive(Debug, Default)]
pub(super) struct Directory {
    accounts: BTreeMap<String, Account>,
    pub(super) attached: Option<String>,
    pub(super) providers: Vec<PoolProvider>,
    pub(super) tokens: HashMap<String, Access>,
    users: Vec<User>,
}

#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) id: String,
    pub(super) token_creators: BTreeSet<String>,
    /// The public halves of its keys.
    pub(super) keys: Vec<Value>,
}

/// A person, signed in by a client that may refresh.
#[derive(Clone, Debug)]
pub(super) struct User {
    email: String,
    pub(super) client_id: String,
    pub(super) client_secret: String,
    pub(super) refresh_token: String,
}

/// What an access token stands for.
#[derive(Clone, Debug)]
pub(super) struct Access {
    /// In the form of a member of an IAM policy.
    pub(super) principal: String,
    scopes: Vec<String>,
    end: u64,
}

impl Directory {
    pub(super) fn add_account(&mut self, email: &str) -> String {
        let id = format!("1{:020}", self.accounts.len());
        self.accounts.insert(email.to_owned(), Account { id: id.clone(), ..Account::default() });
        id
    }

    /// One that was added.
    pub(super) fn account(&mut self, email: &str) -> &mut Account {
        self.accounts.get_mut(email).unwrap_or_else(|| panic!("no account {email} was added"))
    }

    pub(super) fn find(&self, email: &str) -> Option<&Account> {
        self.accounts.get(email)
    }

    pub(super) fn sign_in_user(&mut self, email: &str) -> Value {
        let user = User {
            email: email.to_owned(),
            client_id: format!("{}.apps.googleusercontent.com", random_hex(8)),
            client_secret: random_hex(16),
            refresh_token: format!("1//{}", random_hex(24)),
        };
        self.users.push(user.clone());
        json!({
            "type": "authorized_user", "client_id": user.client_id, "client_secret": user.client_secret,
            "refresh_token": user.refresh_token, "universe_domain": "googleapis.com",
        })
    }

    pub(super) fn user(&self, client_id: &str) -> Option<User> {
        self.users.iter().find(|user| user.client_id == client_id).cloned()
    }
}

impl User {
    pub(super) fn member(&self) -> String {
        format!("user:{}", self.email)
    }
}

impl Access {
    pub(super) fn covers(&self, scope: &str) -> bool {
        self.scopes.iter().any(|held| held == scope)
    }

    pub(super) fn told(&self) -> Value {
        let email = self.principal.split_once(':').map(|(_, email)| email);
        json!({ "email": email, "scope": self.scopes.join(" "), "exp": self.end.to_string() })
    }
}

impl Google {
    /// What a living access token stands for.
    pub(super) fn access(&self, token: &str) -> Option<Access> {
        let access = self.directory.lock().unwrap().tokens.get(token).cloned()?;
        (access.end > self.clock.now().as_secs()).then_some(access)
    }

    /// A new access token, and its end.
    pub(super) fn issue(
        &self,
        by: GoogleService,
        principal: String,
        scopes: Vec<String>,
        seconds: u64,
    ) -> (String, Timestamp) {
        let token = format!("ya29.{}", random_hex(40));
        let end = self.service(by).life(self.clock.now()).0 + seconds;
        self.directory.lock().unwrap().tokens.insert(token.clone(), Access { principal, scopes, end });
        (token, Timestamp::from_secs(end))
    }
}

pub(super) fn service_account(email: &str) -> String {
    format!("serviceAccount:{email}")
}
