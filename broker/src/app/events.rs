//! The sources of events, each with what it needs to be told or to ask.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use zeroize::Zeroizing;

use super::{Background, Credentials, StartError};
use crate::clock::SharedClock;
use crate::config::StoreSettings;
use crate::error::Failure;
use crate::gateway::Route;
use crate::gateway::webhooks::{self, Room};
use crate::identity::token::TokenVerifier;
use crate::names::{SecretName, StoreName};
use crate::providers::credential::{Credential, GOOGLE_CLOUD_SCOPE, Token};
use crate::providers::guard::Budget;
use crate::rotation::Log;
use crate::rotation::sources::{
    Bearer, EventSettings, Intake, Place, Places, Poll, Polled, Pull, SenderSettings, SourceSettings,
};
use crate::secrets::{Provider, Secrets};
use crate::state::Leadership;

/// What status and metrics read of the sources.
#[derive(Debug, Default)]
pub struct Sources {
    pub told: Vec<Arc<Intake>>,
    pub polled: BTreeMap<StoreName, Arc<Polled>>,
    verifiers: Vec<Arc<TokenVerifier>>,
}

/// What all sources work on.
pub(super) struct Around<'a> {
    pub(super) stores: &'a BTreeMap<StoreName, StoreSettings>,
    pub(super) providers: &'a BTreeMap<StoreName, Arc<dyn Provider>>,
    pub(super) credentials: &'a Credentials,
    pub(super) log: &'a Log,
    pub(super) clock: &'a SharedClock,
    pub(super) background: &'a Background,
}

impl Sources {
    /// Begins to pull, and makes the routes for those who push.
    pub(super) async fn open(
        &mut self,
        events: BTreeMap<String, EventSettings>,
        room: &Room,
        around: &Around<'_>,
    ) -> Result<Vec<Route>, StartError> {
        let mut routes = Vec::new();
        for (name, settings) in events {
            let intake = around.intake(name, &settings);
            self.told.push(Arc::clone(&intake));
            let pull = match settings.source {
                SourceSettings::Push(push) => {
                    let tokens = self.verifier(&push.sender, around.clock).await?;
                    routes.push(webhooks::push(push, tokens, intake, room));
                    continue;
                }
                SourceSettings::EventGrid(sender) => {
                    let tokens = self.verifier(&sender, around.clock).await?;
                    routes.extend(webhooks::event_grid(sender, tokens, intake, room));
                    continue;
                }
                SourceSettings::Pull(pull) => pull,
            };
            let credential = around.credentials.get(&pull.credential).cloned();
            let credential = credential.ok_or_else(|| StartError::EventCredential(intake.name().to_owned()))?;
            let bearer = Arc::new(GoogleTokens { credential, last: Mutex::default() });
            around.background.spawn(Pull::new(intake, pull, bearer).run());
        }
        Ok(routes)
    }

    /// Begins to look at every store that does not say never.
    pub(super) fn poll(
        &mut self,
        secrets: &Secrets,
        held: &BTreeSet<SecretName>,
        leadership: &Leadership,
        around: &Around<'_>,
    ) {
        for (store, settings) in around.stores {
            let Some((interval, budget)) = polled(settings) else { continue };
            let Some(provider) = around.providers.get(store) else { continue };
            let account = Arc::new(Polled::default());
            self.polled.insert(store.clone(), Arc::clone(&account));
            let poll = Poll {
                store: store.clone(),
                provider: Arc::clone(provider),
                interval,
                gap: Poll::gap(budget.limit, budget.window),
                secrets: secrets.clone(),
                held: held.iter().filter(|secret| secret.store() == store.as_str()).cloned().collect(),
                log: around.log.clone(),
                leadership: leadership.clone(),
                clock: Arc::clone(around.clock),
                account,
            };
            around.background.spawn(poll.run());
        }
    }

    pub(super) async fn stop(&self) {
        for verifier in &self.verifiers {
            verifier.stop().await;
        }
    }

    async fn verifier(
        &mut self,
        sender: &SenderSettings,
        clock: &SharedClock,
    ) -> Result<Arc<TokenVerifier>, StartError> {
        let verifier = TokenVerifier::start(sender.issuers.clone(), Arc::clone(clock)).await?;
        self.verifiers.push(Arc::clone(&verifier));
        Ok(verifier)
    }
}

/// Of one credential, for the whole of Google Cloud.
struct GoogleTokens {
    credential: Arc<Credential>,
    last: Mutex<Option<Token>>,
}

impl GoogleTokens {
    fn last(&self) -> MutexGuard<'_, Option<Token>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for GoogleTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.credential.fmt(f)
    }
}

impl Bearer for GoogleTokens {
    fn token(&self) -> BoxFuture<'_, Result<Zeroizing<String>, Failure>> {
        Box::pin(async {
            let token = self.credential.token(GOOGLE_CLOUD_SCOPE).await?;
            let value = Zeroizing::new(token.value().to_owned());
            *self.last() = Some(token);
            Ok(value)
        })
    }

    fn refused(&self) {
        if let Some(token) = self.last().take() {
            self.credential.refused(GOOGLE_CLOUD_SCOPE, &token);
        }
    }
}

impl Around<'_> {
    fn intake(&self, name: String, settings: &EventSettings) -> Arc<Intake> {
        let kind = match settings.source {
            SourceSettings::Pull(_) => "pubsub",
            SourceSettings::Push(_) => "pubsub-push",
            SourceSettings::EventGrid(_) => "event-grid",
        };
        let told = || settings.stores.iter();
        let places = told().filter_map(|store| Some((store.clone(), place(self.stores.get(store)?)?)));
        let providers = told().filter_map(|store| Some((store.clone(), Arc::clone(self.providers.get(store)?))));
        Intake::new((name, kind), Places::new(places), providers.collect(), self.log.clone(), Arc::clone(self.clock))
    }
}

fn place(settings: &StoreSettings) -> Option<Place> {
    match settings {
        StoreSettings::Local(_) => None,
        StoreSettings::Gcp(gcp) => Some(Place::Google {
            project: gcp.project.clone(),
            number: gcp.project_number?,
            location: gcp.location.clone(),
        }),
        StoreSettings::Azure(azure) => {
            let host = azure.vault_url.strip_prefix("https://")?;
            Some(Place::Vault { host: host.trim_end_matches('/').to_owned() })
        }
    }
}

fn polled(settings: &StoreSettings) -> Option<(std::time::Duration, Budget)> {
    let (interval, guard) = match settings {
        StoreSettings::Local(_) => return None,
        StoreSettings::Gcp(gcp) => (gcp.poll_interval, &gcp.guard),
        StoreSettings::Azure(azure) => (azure.poll_interval, &azure.guard),
    };
    (!interval.is_zero()).then_some((interval, guard.metadata))
}
