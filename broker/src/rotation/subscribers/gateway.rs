//! Gateways that the broker itself brings up to date. No stream of theirs is open here: they hold what they run for as
//! long as they are configured, and whoever refreshes them acknowledges.

use std::sync::Arc;

use super::record::{Subscriber, SubscriberName, Way};
use super::{Place, Subscribers};
use crate::clock::Timestamp;
use crate::error::{Failure, Reason};
use crate::names::SecretName;
use crate::rotation::watch::Filter;

/// Stands where a caller's id would: those begin with how the caller proved itself, so that none is this one.
const CALLER: &str = "keyferry";

#[derive(Clone, Debug)]
pub struct Gateway {
    name: SubscriberName,
    way: Way,
    /// By name alone.
    filter: Filter,
}

impl Gateway {
    pub fn new(name: SubscriberName, way: Way, filter: Filter) -> Self {
        Self { name, way, filter }
    }

    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    pub fn place(&self) -> Place {
        (CALLER.into(), self.name.clone())
    }
}

impl Subscribers {
    /// Puts it on record as it is configured, and tells what it runs.
    pub async fn enrol(&self, gateway: &Gateway) -> Result<Subscriber, Failure> {
        self.amend_gateway(gateway, |_, _| {}).await
    }

    /// It runs the version; or, with a rejection, does not.
    pub async fn acknowledge_for(
        &self,
        gateway: &Gateway,
        secret: &SecretName,
        version: &Arc<str>,
        rejection: Option<&str>,
    ) -> Result<Subscriber, Failure> {
        let amended = self.amend_gateway(gateway, |subscriber, now| {
            let (secret, version) = (secret.clone(), Arc::clone(version));
            match rejection {
                None => subscriber.takes(secret, version, now),
                Some(why) => subscriber.refuses(secret, version, why, now),
            }
        });
        amended.await
    }

    /// Writes nothing where nothing is new.
    async fn amend_gateway(
        &self,
        gateway: &Gateway,
        edit: impl Fn(&mut Subscriber, Timestamp),
    ) -> Result<Subscriber, Failure> {
        let place = gateway.place();
        let now = self.0.clock.now();
        let mut after = None;
        let amended = self.0.amend(&place, |known| {
            let fresh = || Subscriber::new(Arc::clone(&place.0), place.1.clone(), gateway.filter.clone(), now);
            let mut subscriber = known.clone().unwrap_or_else(fresh);
            (subscriber.way, subscriber.filter) = (gateway.way, gateway.filter.clone());
            // What it is no longer configured for, it does not hold.
            subscriber.runs.retain(|secret, _| gateway.filter.takes_in(secret));
            edit(&mut subscriber, now);
            let is_new = known.as_ref() != Some(&subscriber);
            after = Some(subscriber.clone());
            Ok(is_new.then_some(subscriber))
        });
        amended.await?;
        after.ok_or_else(|| Failure::new(Reason::Internal, "a gateway vanished; report this"))
    }
}
