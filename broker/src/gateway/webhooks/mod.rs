//! Where the clouds deliver their events: a path for each source that is configured.
//!
//! A delivery is answered with success once what it tells is on record, and not before: whoever is told otherwise delivers
//! again. It is no call, so it has no audit record; what it changes is in the rotation log, with its origin.

mod event_grid;
#[cfg(test)]
mod fuzz;
mod pubsub;
mod sender;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use self::event_grid::EventGrid;
use self::pubsub::Push;
use self::sender::Sender;
use super::answer::{self, Answer};
use super::body;
use super::web::Route;
use crate::error::{Failure, Reason};
use crate::identity::token::TokenVerifier;
use crate::rotation::sources::{Intake, PushSettings, SenderSettings};

/// Bodies that are in memory at a time, of all sources together.
const BODIES: usize = 32;

/// What all webhooks share.
#[derive(Clone, Debug)]
pub struct Room {
    bodies: Arc<Semaphore>,
    /// How long a body may take to arrive.
    within: Duration,
}

/// One source's path.
struct Webhook<D> {
    intake: Arc<Intake>,
    sender: Sender,
    room: Room,
    dialect: D,
}

/// How a cloud puts its events.
trait Dialect: Send + Sync + 'static {
    fn take<'a>(&'a self, body: &'a [u8], intake: &'a Intake) -> BoxFuture<'a, Answer>;
}

impl Room {
    pub fn new(within: Duration) -> Self {
        Self { bodies: Arc::new(Semaphore::new(BODIES)), within }
    }
}

/// Where Pub/Sub pushes to.
pub fn push(settings: PushSettings, tokens: Arc<TokenVerifier>, intake: Arc<Intake>, room: &Room) -> Route {
    let sender = Sender { tokens, demands: settings.sender.demands };
    let dialect = Push { subscription: settings.subscription };
    Webhook { intake, sender, room: room.clone(), dialect }.route()
}

/// Where Event Grid delivers, and where it asks whether it may.
pub fn event_grid(
    settings: SenderSettings,
    tokens: Arc<TokenVerifier>,
    intake: Arc<Intake>,
    room: &Room,
) -> [Route; 2] {
    let sender = Sender { tokens, demands: settings.demands };
    let webhook = Webhook { intake, sender, room: room.clone(), dialect: EventGrid };
    let consent = |request: Request<Incoming>| std::future::ready(event_grid::consent(request.headers()));
    [Route::new(Method::OPTIONS, webhook.path(), consent), webhook.route()]
}

impl<D: Dialect> Webhook<D> {
    fn path(&self) -> String {
        format!("/events/{}", self.intake.name())
    }

    fn route(self) -> Route {
        let webhook = Arc::new(self);
        Route::new(Method::POST, webhook.path(), move |request| {
            let webhook = Arc::clone(&webhook);
            async move { webhook.delivered(request).await }
        })
    }

    async fn delivered(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        if let Err(failure) = self.sender.check(&head.headers).await {
            let answer = turned_away(&failure);
            self.intake.refused(failure);
            return answer;
        }
        // Until it is dealt with: the place bounds the memory that bodies take.
        let Ok(_place) = self.room.bodies.try_acquire() else {
            return answer::text(StatusCode::SERVICE_UNAVAILABLE, "too many deliveries at a time; send it again");
        };
        match body::read(body, self.room.within).await {
            Ok(body) => self.dialect.take(&body, &self.intake).await,
            Err(refusal) => refusal,
        }
    }
}

/// Strangers learn no more than that.
fn turned_away(failure: &Failure) -> Answer {
    const WHY: &str = "the delivery was turned away; the broker's log and status say why";
    let status = if failure.reason() == Reason::IssuerKeysUnavailable {
        StatusCode::SERVICE_UNAVAILABLE
    } else if failure.reason() == Reason::AccessDenied {
        StatusCode::FORBIDDEN
    } else {
        StatusCode::UNAUTHORIZED
    };
    let mut answer = answer::text(status, WHY);
    if status == StatusCode::UNAUTHORIZED {
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

fn taken() -> Answer {
    answer::empty(StatusCode::NO_CONTENT)
}

fn again() -> Answer {
    answer::text(StatusCode::SERVICE_UNAVAILABLE, "not all of it could be put on record; send it again")
}

fn unreadable() -> Answer {
    answer::text(StatusCode::BAD_REQUEST, "this is no delivery that can be read here; the broker's log says why")
}
