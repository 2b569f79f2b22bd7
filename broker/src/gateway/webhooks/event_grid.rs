//! Event Grid's deliveries, in its own schema and in that of CloudEvents, one event or a batch; and the two ways in which
//! it asks beforehand whether it may deliver.

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::super::answer::{self, Answer};
use super::{Dialect, again, taken, unreadable};
use crate::error::{Failure, Reason};
use crate::rotation::sources::{Intake, Outcome, azure};

const ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");

/// `eventgrid.azure.net`, and its like in the national clouds.
const EVENT_GRID: &[u8] = b"eventgrid.azure.";

pub(super) struct EventGrid;

impl Dialect for EventGrid {
    fn take<'a>(&'a self, body: &'a [u8], intake: &'a Intake) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let Some(events) = events(body) else {
                intake.refused(not_events());
                return unreadable();
            };
            if let [event] = &*events
                && let Some(code) = azure::handshake(event)
            {
                tracing::info!(source = intake.name(), "Event Grid asked whether it may deliver, and may");
                return answer::json(json!({ "validationResponse": code }).to_string());
            }
            let mut sense = events.is_empty();
            for event in &events {
                match intake.take(azure::read(event, intake.places())).await {
                    Ok(Outcome::Unreadable) => {}
                    Ok(_) => sense = true,
                    // What is on record already will be known by then.
                    Err(_) => return again(),
                }
            }
            if sense { taken() } else { unreadable() }
        })
    }
}

/// One or a batch.
pub(super) fn events(body: &[u8]) -> Option<Vec<Value>> {
    match serde_json::from_slice(body) {
        Ok(Value::Array(events)) => Some(events),
        Ok(event @ Value::Object(_)) => Some(vec![event]),
        Ok(_) | Err(_) => None,
    }
}

/// Asked by Event Grid before it delivers CloudEvents, and it need not say who asks: consent lets nobody in, as each
/// delivery has to bear its token.
pub(super) fn consent(headers: &HeaderMap) -> Answer {
    let Some(origin) = headers.get(ORIGIN).filter(|origin| origin.as_bytes().starts_with(EVENT_GRID)) else {
        return answer::text(StatusCode::FORBIDDEN, "only Event Grid may deliver here");
    };
    let mut consent = answer::empty(StatusCode::OK);
    consent.headers_mut().insert(ALLOWED_ORIGIN, origin.clone());
    consent.headers_mut().insert(ALLOWED_RATE, HeaderValue::from_static("*"));
    consent
}

fn not_events() -> Failure {
    let message = "a delivery is no JSON of one event or several; deliver in the schema of Event Grid or CloudEvents";
    Failure::new(Reason::InvalidArgument, message)
}
