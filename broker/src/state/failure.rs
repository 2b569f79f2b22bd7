//! Why the state could not be read or changed.

use std::error::Error;
use std::sync::Arc;

use thiserror::Error;

use super::key::Key;
use super::record::Fault;
use super::txn::TxnFault;
use crate::error::{Failure, Reason};

#[derive(Clone, Debug, Error)]
pub enum StateError {
    /// Nothing was changed.
    #[error("the state store cannot be used at the moment: {0}")]
    Unavailable(&'static str, #[source] Option<Arc<dyn Error + Send + Sync>>),
    #[error("the record {0} cannot be read")]
    Unreadable(Key, #[source] Fault),
    #[error("the transaction is not one that a store takes")]
    Txn(#[from] TxnFault),
}

impl StateError {
    pub(super) fn unavailable(what: &'static str, cause: impl Error + Send + Sync + 'static) -> Self {
        Self::Unavailable(what, Some(Arc::new(cause)))
    }
}

/// By what they say: causes are for the log.
impl PartialEq for StateError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for StateError {}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        let (reason, message) = match &error {
            StateError::Unavailable(..) => (
                Reason::StateUnavailable,
                "the broker's state store cannot be used at the moment; ask again shortly, and if it lasts, tell the \
                 operators, whose GetStatus says why",
            ),
            StateError::Unreadable(..) => (
                Reason::StateUnavailable,
                "the broker's record of this cannot be read; tell the operators, whom `keyferry state quarantined` \
                 tells why",
            ),
            StateError::Txn(_) => {
                (Reason::Internal, "the broker asked its state store for something impossible; report this as a bug")
            }
        };
        Self::new(reason, message).caused_by(error)
    }
}
