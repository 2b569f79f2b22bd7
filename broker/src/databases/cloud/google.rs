//! The service account that a role's tokens are of, and what each request in its name passes.

use std::sync::Arc;

use super::{check_end, life};
use crate::databases::tokens::Order;
use crate::error::Failure;
use crate::names::RoleName;
use crate::providers::credential::{ServiceAccount, Token};
use crate::providers::guard::{Guard, Operation};

#[derive(Debug)]
pub(super) struct RoleAccount {
    role: RoleName,
    account: Arc<ServiceAccount>,
    guard: Arc<Guard>,
}

impl RoleAccount {
    pub(super) fn new(role: RoleName, account: Arc<ServiceAccount>, guard: Arc<Guard>) -> Self {
        Self { role, account, guard }
    }

    pub(super) fn email(&self) -> &str {
        self.account.email()
    }

    pub(super) fn guard(&self) -> &Guard {
        &self.guard
    }

    /// One for this caller alone. IAM makes each token on its own and has quota for it, so none is shared.
    pub(super) async fn token(&self, scope: &'static str, order: &Order) -> Result<Token, Failure> {
        let life = life(order)?;
        let ask = || self.account.token(scope, life);
        let token = self.guard.call(Operation::Access, self.role.as_str(), ask).await?;
        check_end(order, token.expires)?;
        Ok(token)
    }
}
