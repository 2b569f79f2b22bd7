use std::time::Duration;

use keyferry_proto::v1::batch_get_secrets_result::Result as Outcome;
use keyferry_proto::v1::operator_service_client::OperatorServiceClient;
use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::token_service_client::TokenServiceClient;
use keyferry_proto::v1::{
    BatchGetSecretsRequest, BatchGetSecretsResult, WatchRotationsRequest, WatchRotationsResponse,
};
use tokio::time::{Instant, timeout};
use tonic::{Request, Streaming};

use crate::calls::Call;
use crate::retry::Patience;
use crate::{
    Error, Link, Logins, Options, Read, Reason, Refusal, RoleName, Secret, SecretCache, SecretHandle, SecretName,
    SecretPages, SubscriberName, Watch, WatchOptions,
};

/// A caller of one broker. Clones share its connection.
#[derive(Clone, Debug)]
pub struct Client {
    link: Link,
    patience: Patience,
}

impl Client {
    /// Reads the files; connects when it is first used, so that it can be made while the broker is away.
    pub fn new(options: &Options) -> Result<Self, Error> {
        Ok(Self { link: Link::new(options)?, patience: Patience::new(options) })
    }

    /// Reads the files and connects. What would fail each call is an error here.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let client = Self::new(&options)?;
        client.link.stand(options.deadline).await?;
        Ok(client)
    }

    /// Any method of the contract that is no stream: `client.call(WhoAmIRequest::default())`. Repeated as the crate's
    /// documentation says; a change gets a `request_id` of its own where it has none, so that a repeat is harmless.
    pub async fn call<R: Call>(&self, mut request: R) -> Result<R::Answer, Error> {
        request.identify();
        let send = |left| {
            let (request, link) = (request.clone(), self.link.clone());
            let send = move || {
                let mut request = Request::new(request.clone());
                request.set_timeout(left);
                R::send(link.clone(), request)
            };
            async move {
                let called = Instant::now();
                let mut answer = send().await.map_err(Error::from);
                // By the broker's clock, which is not this one.
                if answer.as_ref().is_err_and(is_token_expired) && self.link.renew_token(called).await {
                    answer = send().await.map_err(Error::from);
                }
                Ok(answer?.into_inner())
            }
        };
        self.patience.call(send).await
    }

    /// Reads one version of a secret: the latest, where the name does not say which.
    pub async fn get_secret(&self, read: impl Into<Read>) -> Result<Secret, Error> {
        Ok(Secret::from_answer(self.call(read.into().0).await?)?)
    }

    /// Reads several, each with its own outcome, in the order asked for; at most 100.
    pub async fn batch_get<R: Into<Read>>(
        &self,
        reads: impl IntoIterator<Item = R>,
    ) -> Result<Vec<Result<Secret, Error>>, Error> {
        let requests: Vec<_> = reads.into_iter().map(|read| read.into().0).collect();
        let asked = requests.len();
        let results = self.call(BatchGetSecretsRequest { requests }).await?.results;
        // Outcomes are told apart by their place alone.
        if results.len() != asked {
            return Err(Error::Unexpected("a batch with too few or too many outcomes"));
        }
        Ok(results.into_iter().map(outcome).collect())
    }

    /// The secrets of `stores/{store}` that the caller may list, ordered by name, without their values.
    pub fn list_secrets(&self, parent: impl Into<String>) -> SecretPages {
        SecretPages::new(self.clone(), parent.into())
    }

    /// Rotations as they happen, through restarts and lost connections. Nothing is asked before [`Watch::next`].
    pub fn watch(&self, options: WatchOptions) -> Watch {
        Watch::new(self.clone(), options)
    }

    /// Secrets that many ask for again and again: kept here while they are fresh, and up to `max_stale` longer while the
    /// broker does not answer for them.
    pub fn cache(&self, max_stale: Duration) -> SecretCache {
        SecretCache::new(self.clone(), max_stale)
    }

    /// A secret that stays the current one. Under a subscriber's name each version taken up is acknowledged, so that the
    /// one before can retire.
    pub async fn follow<N>(&self, name: N, subscriber: Option<SubscriberName>) -> Result<SecretHandle, Error>
    where
        N: TryInto<SecretName>,
        Error: From<N::Error>,
    {
        SecretHandle::start(self.clone(), name.try_into()?, subscriber).await
    }

    /// A login to a database that is always a good one, each for `ttl` or the role's default; for
    /// pools see `keyferry_client::pool`.
    pub async fn logins<N>(&self, role: N, ttl: Option<Duration>) -> Result<Logins, Error>
    where
        N: TryInto<RoleName>,
        Error: From<N::Error>,
    {
        Logins::start(self.clone(), role.try_into()?, ttl).await
    }

    /// The deadline is for the broker's first word; a watch itself has none.
    pub(crate) async fn open_watch(
        &self,
        message: &WatchRotationsRequest,
    ) -> Result<Streaming<WatchRotationsResponse>, Error> {
        let deadline = self.deadline();
        let mut service = RotationServiceClient::new(self.link.clone());
        let called = Instant::now();
        let opened = timeout(deadline, service.watch_rotations(Request::new(message.clone()))).await;
        let opened = opened.map_err(|_| Error::Deadline(deadline, None))?.map_err(Error::from);
        if opened.as_ref().is_err_and(is_token_expired) {
            // The watch tries again by itself.
            let _ = timeout(deadline, self.link.renew_token(called)).await;
        }
        Ok(opened?.into_inner())
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.patience.deadline
    }

    /// The generated client. Deadlines and retries are its user's affair.
    pub fn secret_service(&self) -> SecretServiceClient<Link> {
        SecretServiceClient::new(self.link.clone())
    }

    /// The generated client; see [`Client::secret_service`].
    pub fn token_service(&self) -> TokenServiceClient<Link> {
        TokenServiceClient::new(self.link.clone())
    }

    /// The generated client; see [`Client::secret_service`].
    pub fn rotation_service(&self) -> RotationServiceClient<Link> {
        RotationServiceClient::new(self.link.clone())
    }

    /// The generated client; see [`Client::secret_service`].
    pub fn operator_service(&self) -> OperatorServiceClient<Link> {
        OperatorServiceClient::new(self.link.clone())
    }
}

fn is_token_expired(error: &Error) -> bool {
    error.reason() == Some(Reason::TokenExpired)
}

fn outcome(result: BatchGetSecretsResult) -> Result<Secret, Error> {
    match result.result {
        Some(Outcome::Secret(answer)) => Ok(Secret::from_answer(answer)?),
        Some(Outcome::Error(detail)) => Err(Refusal::from(detail).into()),
        None => Err(Error::Unexpected("a batch with an outcome left empty")),
    }
}
