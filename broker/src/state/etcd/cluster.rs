//! Etcd's members as one: who is asked, for how long, and what an error says about what was sent.

use std::error::Error as StdError;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Certificate, Channel, Client, ConnectOptions, Error, Identity, TlsOptions};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Endpoint;
use zeroize::Zeroizing;

use super::EtcdError;
use crate::state::failure::StateError;
use crate::state::settings::EtcdSettings;

/// Etcd ends connections that ping more often than every five seconds.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) struct Cluster {
    members: Vec<Member>,
    /// The one that answered last.
    preferred: AtomicUsize,
    timeout: Duration,
    failing: Mutex<Option<String>>,
}

struct Member {
    endpoint: Endpoint,
    user: Option<(String, Zeroizing<String>)>,
    client: OnceCell<Client>,
}

/// What became of a request that must not be sent twice.
pub(super) enum Sent<T> {
    Answered(T),
    /// It may have been carried out.
    Unanswered,
}

impl Cluster {
    pub(super) fn new(settings: &EtcdSettings) -> Result<Self, EtcdError> {
        let tls = tls(settings)?;
        let password = settings.password_file.as_deref().map(read_text).transpose()?;
        let user = settings.user.clone().zip(password);
        let share = share(settings.timeout, settings.endpoints.len());
        let members = settings.endpoints.iter().map(|url| {
            let refused = |error| EtcdError::Endpoint(url.clone(), error);
            let mut endpoint = Endpoint::from_shared(url.clone()).map_err(refused)?;
            if let Some(tls) = tls.clone().filter(|_| url.starts_with("https:")) {
                endpoint = endpoint.tls_config(tls).map_err(refused)?;
            }
            let endpoint = endpoint
                .connect_timeout(share / 2)
                .http2_keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .keep_alive_while_idle(true);
            Ok(Member { endpoint, user: user.clone(), client: OnceCell::new() })
        });
        Ok(Self {
            members: members.collect::<Result<_, EtcdError>>()?,
            preferred: AtomicUsize::new(0),
            timeout: settings.timeout,
            failing: Mutex::default(),
        })
    }

    /// Asks one member after the other, for what may be asked twice.
    pub(super) async fn ask<T, F>(&self, request: impl Fn(Client) -> F) -> Result<T, StateError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let share = share(self.timeout, self.members.len());
        let mut last = None;
        for (index, member) in self.in_turn() {
            match timeout(share, async { request(member.client().await?).await }).await {
                Ok(Ok(answer)) => {
                    self.answered(index);
                    return Ok(answer);
                }
                Ok(Err(error)) => last = Some(error),
                Err(_) => {}
            }
        }
        Err(self.failed(last))
    }

    /// Asks another member only where the one before cannot have heard of it.
    pub(super) async fn send<T, F>(&self, request: impl Fn(Client) -> F) -> Result<Sent<T>, StateError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut last = None;
        for (index, member) in self.in_turn() {
            match timeout(self.timeout, async { request(member.client().await?).await }).await {
                Ok(Ok(answer)) => {
                    self.answered(index);
                    return Ok(Sent::Answered(answer));
                }
                Ok(Err(error)) if was_not_done(&error) => last = Some(error),
                Ok(Err(error)) => return Ok(self.unanswered(index, Some(error))),
                Err(_) => return Ok(self.unanswered(index, None)),
            }
        }
        Err(self.failed(last))
    }

    /// Clients to try, the preferred first.
    pub(super) async fn clients(&self) -> Vec<Client> {
        let mut clients = Vec::new();
        for (_, member) in self.in_turn() {
            clients.extend(member.client().await.ok());
        }
        clients
    }

    pub(super) fn failing(&self) -> Option<String> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn in_turn(&self) -> impl Iterator<Item = (usize, &Member)> {
        let first = self.preferred.load(Ordering::Relaxed);
        self.members.iter().enumerate().cycle().skip(first).take(self.members.len())
    }

    fn answered(&self, index: usize) {
        self.preferred.store(index, Ordering::Relaxed);
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn unanswered<T>(&self, index: usize, error: Option<Error>) -> Sent<T> {
        self.preferred.store((index + 1) % self.members.len().max(1), Ordering::Relaxed);
        let _ = self.failed(error);
        Sent::Unanswered
    }

    fn failed(&self, error: Option<Error>) -> StateError {
        let text = error.as_ref().map_or_else(|| "no answer in time".to_owned(), ToString::to_string);
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("etcd: {text}"));
        match error {
            Some(error) => StateError::unavailable("no member of etcd could do it", error),
            None => StateError::Unavailable("no member of etcd answered in time", None),
        }
    }
}

impl Member {
    /// Connects when it is first asked; a user logs in first, which takes etcd's answer.
    async fn client(&self) -> Result<Client, Error> {
        let connect = || {
            // Where no member leads there is no quorum, and waiting for it would leave the outcome unknown.
            let mut options = ConnectOptions::new().with_require_leader(true);
            if let Some((user, password)) = &self.user {
                options = options.with_user(user, password.as_str()).with_auto_token_refresh(true);
            }
            Client::from_channel(Channel::Tonic(self.endpoint.connect_lazy()), Some(options))
        };
        self.client.get_or_try_init(connect).await.cloned()
    }
}

/// Whether the request certainly changed nothing: it never left, or was turned away at the door.
fn was_not_done(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else {
        return false;
    };
    let never_left = std::iter::successors(StdError::source(status), |error| (*error).source())
        .any(<dyn StdError>::is::<tonic::ConnectError>);
    let turned_away = [Code::InvalidArgument, Code::Unauthenticated, Code::PermissionDenied, Code::ResourceExhausted];
    never_left || turned_away.contains(&status.code()) || status.message() == "etcdserver: no leader"
}

fn share(timeout: Duration, members: usize) -> Duration {
    timeout / u32::try_from(members).unwrap_or(1).max(1)
}

fn tls(settings: &EtcdSettings) -> Result<Option<TlsOptions>, EtcdError> {
    if settings.endpoints.iter().all(|url| !url.starts_with("https:")) {
        return Ok(None);
    }
    let mut tls = TlsOptions::new();
    tls = match &settings.ca {
        Some(ca) => tls.ca_certificate(Certificate::from_pem(&*read_text(ca)?)),
        None => tls.with_native_roots(),
    };
    if let Some((certificate, key)) = settings.certificate.as_ref().zip(settings.key.as_ref()) {
        tls = tls.identity(Identity::from_pem(&*read_text(certificate)?, &*read_text(key)?));
    }
    Ok(Some(tls))
}

fn read_text(path: &Path) -> Result<Zeroizing<String>, EtcdError> {
    let text = std::fs::read_to_string(path).map_err(|error| EtcdError::File(path.to_owned(), error))?;
    Ok(Zeroizing::new(text))
}

impl<T> Sent<T> {
    pub(super) fn answer(&self) -> Option<&T> {
        match self {
            Self::Answered(answer) => Some(answer),
            Self::Unanswered => None,
        }
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("members", &self.members.len()).finish_non_exhaustive()
    }
}
