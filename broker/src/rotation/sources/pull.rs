//! Pub/Sub, pulled through Google's own client. A message is acknowledged once what it tells is on record; one that could
//! not be put there is given back, and comes again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use google_cloud_auth::credentials::{CacheableResource, CredentialsProvider, EntityTag};
use google_cloud_auth::errors::CredentialsError;
use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::Error;
use google_cloud_pubsub::client::Subscriber;
use google_cloud_pubsub::subscriber::MessageStream;
use google_cloud_pubsub::subscriber::ShutdownBehavior;
use http::Extensions;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::google;
use super::intake::Intake;
use super::settings::PullSettings;
use crate::error::{Failure, Reason};

/// Messages are small and dealt with one by one; more at hand would only wait here instead of there.
const AT_HAND: i64 = 100;
const BYTES_AT_HAND: i64 = 1024 * 1024;
/// How long Pub/Sub waits for a word of a message before it gives it to somebody else.
const LEASE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The seam to whoever keeps the broker's tokens for Google Cloud alive.
pub trait Bearer: Send + Sync + std::fmt::Debug {
    fn token(&self) -> BoxFuture<'_, Result<Zeroizing<String>, Failure>>;

    /// The token that was given last was refused before its time; the next attempt shall have another.
    fn refused(&self);
}

/// One subscription, pulled from for as long as the broker runs.
pub struct Pull {
    intake: Arc<Intake>,
    settings: PullSettings,
    bearer: Arc<dyn Bearer>,
}

impl Pull {
    pub fn new(intake: Arc<Intake>, settings: PullSettings, bearer: Arc<dyn Bearer>) -> Self {
        Self { intake, settings, bearer }
    }

    pub async fn run(self) {
        let mut pause = PAUSE;
        loop {
            match self.stream().await {
                Ok(mut stream) => {
                    if self.drink(&mut stream).await {
                        pause = PAUSE;
                    }
                }
                Err(failure) => self.intake.fails(failure),
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Sends nothing yet.
    async fn stream(&self) -> Result<MessageStream, Failure> {
        let builder =
            Subscriber::builder().with_credentials(Credentials(Arc::clone(&self.bearer))).with_grpc_subchannel_count(1);
        let builder = match &self.settings.endpoint {
            Some(endpoint) => builder.with_endpoint(endpoint),
            None => builder,
        };
        let client = builder.build().await.map_err(|error| {
            let message = "the client of Pub/Sub cannot be made; check the source's endpoint and the system's CAs";
            Failure::new(Reason::ProviderUnavailable, message).caused_by(error)
        })?;
        let stream = client
            .subscribe(&self.settings.subscription)
            .set_max_outstanding_messages(AT_HAND)
            .set_max_outstanding_bytes(BYTES_AT_HAND)
            .set_max_lease_extension(LEASE)
            .set_shutdown_behavior(ShutdownBehavior::NackImmediately);
        Ok(stream.build())
    }

    /// Until the stream ends; whether anything came of it.
    async fn drink(&self, stream: &mut MessageStream) -> bool {
        let mut any = false;
        while let Some(next) = stream.next().await {
            let (message, handler) = match next {
                Ok(next) => next,
                Err(error) => {
                    if error.status().is_some_and(|status| status.code == Code::Unauthenticated) {
                        self.bearer.refused();
                    }
                    self.intake.fails(self.explained(&error));
                    return any;
                }
            };
            any = true;
            match self.intake.take(google::read(&message.attributes, self.intake.places())).await {
                // Nobody can read it, however often it comes.
                Ok(_) => handler.ack(),
                Err(failure) => {
                    tracing::warn!(
                        source = self.intake.name(),
                        cause = failure.cause(),
                        "an event could not be put on record and is given back: {failure}"
                    );
                    // It would be back at once.
                    sleep(PAUSE).await;
                    handler.nack();
                }
            }
        }
        any
    }

    /// In our words: Google's may quote what was sent.
    fn explained(&self, error: &Error) -> Failure {
        let subscription = &self.settings.subscription;
        let (reason, message) = match error.status().map(|status| status.code) {
            Some(Code::NotFound) => (
                Reason::ProviderDenied,
                format!("{subscription} does not exist; create it as docs/gcp.md shows, or correct `subscription`"),
            ),
            Some(Code::PermissionDenied) => (
                Reason::ProviderDenied,
                format!("the broker may not pull from {subscription}; grant its account roles/pubsub.subscriber there"),
            ),
            Some(Code::Unauthenticated) => (
                Reason::ProviderCredential,
                "Pub/Sub does not accept the broker's token; see the credential's own status".to_owned(),
            ),
            Some(Code::InvalidArgument | Code::FailedPrecondition) => (
                Reason::ProviderDenied,
                format!("{subscription} cannot be pulled from; see that it is a pull subscription and not detached"),
            ),
            _ => (
                Reason::ProviderUnavailable,
                format!("{subscription} cannot be pulled from for now; the broker goes on trying"),
            ),
        };
        let code = error.status().map_or("no status", |status| status.code.name());
        Failure::new(reason, message).caused_by(format!("Pub/Sub answered {code}"))
    }
}

impl std::fmt::Debug for Pull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pull").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Credentials(Arc<dyn Bearer>);

impl CredentialsProvider for Credentials {
    async fn headers(&self, _: Extensions) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        let token = self.0.token().await;
        let token = token.map_err(|failure| CredentialsError::from_msg(true, failure.message()))?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.as_str()))
            .map_err(|_| CredentialsError::from_msg(false, "the token does not fit a header"))?;
        value.set_sensitive(true);
        let data = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        Ok(CacheableResource::New { entity_tag: EntityTag::new(), data })
    }

    async fn universe_domain(&self) -> Option<String> {
        None
    }
}
