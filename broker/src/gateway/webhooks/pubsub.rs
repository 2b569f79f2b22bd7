//! Pub/Sub's push deliveries, each of one message.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use serde::Deserialize;

use super::super::answer::Answer;
use super::{Dialect, again, taken, unreadable};
use crate::error::{Failure, Reason};
use crate::rotation::sources::{Intake, Outcome, google};

pub(super) struct Push {
    /// Its token tells whose delivery it is, and this which of their subscriptions is meant for here.
    pub(super) subscription: String,
}

#[derive(Deserialize)]
pub(super) struct Delivery {
    pub(super) message: Message,
    subscription: String,
}

#[derive(Deserialize)]
pub(super) struct Message {
    #[serde(default)]
    pub(super) attributes: HashMap<String, String>,
    #[serde(default)]
    data: String,
}

impl Dialect for Push {
    fn take<'a>(&'a self, body: &'a [u8], intake: &'a Intake) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let Some(delivery) = Delivery::read(body) else {
                intake.refused(not_a_push());
                return unreadable();
            };
            if delivery.subscription != self.subscription {
                intake.refused(self.another_subscription());
                return unreadable();
            }
            match intake.take(google::read(&delivery.message.attributes, intake.places())).await {
                Ok(Outcome::Unreadable) => unreadable(),
                Ok(_) => taken(),
                Err(_) => again(),
            }
        })
    }
}

impl Delivery {
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let delivery: Self = serde_json::from_slice(body).ok()?;
        // The data says nothing that the attributes do not, but a message of Pub/Sub's has it well formed.
        STANDARD.decode(&delivery.message.data).ok()?;
        Some(delivery)
    }
}

impl Push {
    fn another_subscription(&self) -> Failure {
        let message =
            format!("a delivery is of another subscription than {}; let only that one push here", self.subscription);
        Failure::new(Reason::InvalidArgument, message)
    }
}

fn not_a_push() -> Failure {
    let message =
        "a delivery is not a message as Pub/Sub pushes it; create the subscription without payload unwrapping";
    Failure::new(Reason::InvalidArgument, message)
}
