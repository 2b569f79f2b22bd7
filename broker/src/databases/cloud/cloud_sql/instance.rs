//! One instance, as the role's service account sees it: where it is, and the certificates that it issues.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::admin_api::{AdminApi, ConnectSettings};
use crate::clock::SharedClock;
use crate::databases::cloud::settings::{CloudSqlSettings, InstanceName, Network};
use crate::error::{Failure, Reason};
use crate::names::RoleName;
use crate::providers::credential::{Broken, Credential, ServiceAccount, Token};
use crate::providers::guard::{Guard, Operation};

const API_SCOPE: &str = "https://www.googleapis.com/auth/sqlservice.admin";
/// Google counts requests to the Admin API by the minute, and an instance seldom moves.
const FRESH_FOR: Duration = Duration::from_secs(300);
/// While the API cannot say anything else.
const GOOD_FOR: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(super) struct Instance {
    role: RoleName,
    name: InstanceName,
    network: Network,
    api: AdminApi,
    /// The service account's own, for the API: the broker itself needs no right to the instance. Never leaves.
    credential: Arc<Credential>,
    guard: Arc<Guard>,
    clock: SharedClock,
    /// Held while it is asked for, so that one asks for all.
    known: Mutex<Option<(Instant, Arc<Place>)>>,
}

/// How callers reach it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) host: String,
    /// In PEM.
    pub(super) ca: Arc<str>,
    /// What its certificate carries; empty where that is no name of a host.
    pub(super) name: String,
}

impl Instance {
    pub(super) fn new(
        role: &RoleName,
        account: Arc<ServiceAccount>,
        settings: &CloudSqlSettings,
        guard: Arc<Guard>,
        clock: SharedClock,
    ) -> Result<Self, Broken> {
        let (name, email) = (settings.instance.clone(), account.email().to_owned());
        Ok(Self {
            role: role.clone(),
            api: AdminApi::new(&settings.admin_url, name.clone(), email)?,
            name,
            network: settings.network,
            credential: Credential::over_account(account, Arc::clone(&clock)),
            guard,
            clock,
            known: Mutex::default(),
        })
    }

    pub(super) async fn place(&self) -> Result<Arc<Place>, Failure> {
        let mut known = self.known.lock().await;
        let now = self.clock.monotonic();
        let kept = |span| known.as_ref().filter(|(at, _)| now < *at + span).map(|(_, place)| Arc::clone(place));
        if let Some(place) = kept(FRESH_FOR) {
            return Ok(place);
        }
        let read = |token: Token| async move { self.api.connect_settings(&token).await };
        match self.ask(Operation::Metadata, read).await.and_then(|settings| self.locate(&settings)) {
            Ok(place) => {
                let place = Arc::new(place);
                *known = Some((now, Arc::clone(&place)));
                Ok(place)
            }
            Err(failure) if failure.reason() == Reason::ProviderDenied => Err(failure),
            Err(failure) => kept(GOOD_FOR).ok_or(failure),
        }
    }

    /// For one public key; it lives no longer than `login`, which it holds.
    pub(super) async fn certificate(&self, public: &str, login: &Token, life: Duration) -> Result<String, Failure> {
        let sign = |token: Token| async move { self.api.certificate(&token, public, login, life).await };
        self.ask(Operation::Access, sign).await
    }

    async fn ask<T, F>(&self, operation: Operation, request: impl Fn(Token) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let request = &request;
        let send = |token: Token| self.guard.call(operation, self.role.as_str(), move || request(token.clone()));
        let token = self.credential.token(API_SCOPE).await?;
        match send(token.clone()).await {
            Err(failure) if failure.reason() == Reason::ProviderCredential => {
                self.credential.refused(API_SCOPE, &token);
                send(self.credential.token(API_SCOPE).await?).await
            }
            outcome => outcome,
        }
    }

    fn locate(&self, settings: &ConnectSettings) -> Result<Place, Failure> {
        let InstanceName { region, .. } = &self.name;
        if settings.region != *region {
            let message = format!(
                "{} is not in the region {region} but elsewhere; correct instance, PROJECT:REGION:INSTANCE",
                self.name
            );
            return Err(Failure::new(Reason::ProviderDenied, message));
        }
        let host = match self.network {
            Network::Public => settings.address("PRIMARY"),
            Network::Private => settings.address("PRIVATE"),
            Network::ServiceConnect => settings.private_name(),
        };
        let host = host.ok_or_else(|| {
            let message = format!(
                "{} has no address of the configured network; give it one, or correct network (public, private or psc)",
                self.name
            );
            Failure::new(Reason::ProviderDenied, message)
        })?;
        Ok(Place { host: host.to_owned(), name: settings.server_name().to_owned(), ca: settings.ca().into() })
    }
}
