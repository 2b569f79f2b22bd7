use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::time::{Instant, timeout};
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use crate::credentials::{CredentialFiles, Stamp};
use crate::dial::Dialer;
use crate::token::Bearer;
use crate::{Error, Options, TokenError};

/// What carries the calls of a client, with its certificate and token as they are at the moment of each. The generated
/// clients run on it.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

/// Why a call was not carried to the broker, or its answer not back.
#[derive(Debug, Error)]
pub enum LinkError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
}

struct Shared {
    endpoint: Endpoint,
    files: CredentialFiles,
    bearer: Option<Bearer>,
    dialer: Dialer,
    current: Mutex<Current>,
}

struct Current {
    channel: Channel,
    stamps: Vec<Option<Stamp>>,
    /// What could not be used, and was complained of. It is tried again: rights may change without the file.
    refused: Vec<Option<Stamp>>,
    looked: Instant,
}

/// How often the files are looked at, at most.
const LOOK: Duration = Duration::from_secs(1);

impl Link {
    /// Connects with the first call.
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        let malformed = || Error::Endpoint(options.endpoint.clone());
        let origin: http::Uri = options.endpoint.parse().map_err(|_| malformed())?;
        let host = origin.host().filter(|_| origin.scheme_str() == Some("https")).ok_or_else(malformed)?;
        let files = CredentialFiles::of(options)?;
        // Before they are read: a change between the two is seen by the next look.
        let stamps = files.stamps();
        let dialer = Dialer::new(
            host.trim_matches(['[', ']']),
            origin.port_u16().unwrap_or(443),
            options.server_name.as_deref(),
            files.load()?,
        )
        .ok_or_else(malformed)?;
        // TLS is the dialer's, and tonic refuses https without its own.
        let endpoint = Endpoint::from_static("http://keyferry")
            .origin(origin)
            .http2_keep_alive_interval(options.keepalive)
            .keep_alive_timeout(options.keepalive / 2)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect_with_connector_lazy(dialer.clone());
        let bearer = options.token.clone().map(Bearer::new).transpose()?;
        let current = Mutex::new(Current { channel, stamps, refused: Vec::new(), looked: Instant::now() });
        Ok(Self(Arc::new(Shared { endpoint, files, bearer, dialer, current })))
    }

    /// Returns once a connection stands and the token is there, or says why not.
    pub(crate) async fn stand(&self, deadline: Duration) -> Result<(), Error> {
        if let Some(bearer) = &self.0.bearer {
            bearer.header().await?;
        }
        let connecting = self.0.endpoint.connect_with_connector(self.0.dialer.clone());
        let channel = timeout(deadline, connecting).await.map_err(|_| Error::Deadline(deadline, None))?;
        self.current().channel = channel.map_err(|error| Error::of_link(&error))?;
        Ok(())
    }

    /// See [`Bearer::renew`].
    pub(crate) async fn renew_token(&self, called: Instant) -> bool {
        match &self.0.bearer {
            Some(bearer) => bearer.renew(called).await,
            None => false,
        }
    }

    /// The channel on the files as they are. What runs on the one before may end there.
    fn channel(&self) -> Channel {
        let mut current = self.current();
        let now = Instant::now();
        if now.duration_since(current.looked) >= LOOK {
            current.looked = now;
            let stamps = self.0.files.stamps();
            if stamps != current.stamps {
                self.replace(&mut current, stamps);
            }
        }
        current.channel.clone()
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, current: &mut Current, stamps: Vec<Option<Stamp>>) {
        match self.0.files.load() {
            Ok(config) => {
                self.0.dialer.use_from_now_on(config);
                current.stamps = stamps;
                current.channel = self.0.endpoint.connect_with_connector_lazy(self.0.dialer.clone());
                tracing::info!("certificate files have changed and are used from now on");
            }
            // One file of a pair may have been written before the other; the next change is looked at again.
            Err(_) if current.refused == stamps => {}
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "changed certificate files cannot be used; the ones before stay in use"
                );
                current.refused = stamps;
            }
        }
    }
}

impl Service<http::Request<Body>> for Link {
    type Response = http::Response<Body>;
    type Error = LinkError;
    type Future = BoxFuture<'static, Result<Self::Response, LinkError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let link = self.clone();
        Box::pin(async move {
            if let Some(bearer) = &link.0.bearer {
                request.headers_mut().insert(http::header::AUTHORIZATION, bearer.header().await?);
            }
            let mut channel = link.channel();
            std::future::poll_fn(|context| channel.poll_ready(context)).await?;
            Ok(channel.call(request).await?)
        })
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("dialer", &self.0.dialer).field("bearer", &self.0.bearer).finish_non_exhaustive()
    }
}
