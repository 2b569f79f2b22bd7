//! Who delivers an event. Nothing of a delivery is read before that is known.

use std::sync::Arc;

use http::HeaderMap;

use crate::error::{Failure, Reason};
use crate::identity::token::{Token, TokenVerifier, bearer};
use crate::rotation::sources::Demand;

pub(super) struct Sender {
    /// Its issuers are the sender's only, so that no caller's token delivers events and no sender's token makes a caller.
    pub(super) tokens: Arc<TokenVerifier>,
    pub(super) demands: Vec<Demand>,
}

impl Sender {
    pub(super) async fn check(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let token = bearer(headers)?.ok_or_else(|| {
            let message = "a delivery bears no token; set its subscription up to authenticate itself";
            Failure::new(Reason::CredentialMissing, message)
        })?;
        let token = self.tokens.verify(token).await?;
        token.check_binding(None)?;
        self.demands.iter().find(|demand| !is_met(demand, &token)).map_or(Ok(()), |unmet| Err(another(unmet)))
    }
}

fn is_met(demand: &Demand, token: &Token) -> bool {
    demand.claims.iter().any(|claim| token.claims().get(claim).any(|value| value == demand.value))
}

fn another(unmet: &Demand) -> Failure {
    let (claims, value) = (unmet.claims.join(" or "), &unmet.value);
    let message = format!("a delivery's token is good, but its {claims} is not {value:?}; correct whichever is wrong");
    Failure::new(Reason::AccessDenied, message)
}
