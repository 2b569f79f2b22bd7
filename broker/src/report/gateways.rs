//! What is told of the gateways that the broker brings up to date.

use std::sync::Arc;

use crate::gateway::api_management::Account;
use crate::telemetry::{Samples, names};

pub(super) fn samples(gateways: &[Arc<Account>], out: &mut Samples) {
    for account in gateways {
        let counts = account.counts();
        for (outcome, count) in [("refreshed", counts.refreshed), ("failed", counts.failed)] {
            out.set_nonzero(&names::GATEWAY_REFRESHES, &[&account.gateway, outcome], count);
        }
        out.set(&names::GATEWAY_BEHIND, &[&account.gateway], counts.behind);
    }
}
