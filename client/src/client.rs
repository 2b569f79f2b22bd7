use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyferry_proto::v1::batch_get_secrets_result::Result as Outcome;
use keyferry_proto::v1::operator_service_client::OperatorServiceClient;
use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::token_service_client::TokenServiceClient;
use keyferry_proto::v1::{
    BatchGetSecretsRequest, BatchGetSecretsResult, ListSecretsRequest, ListSecretsResponse, WatchRotationsRequest,
    WatchRotationsResponse,
};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status, Streaming};
use zeroize::Zeroizing;

use crate::retry::Patience;
use crate::token::{Bearer, TokenError};
use crate::{Error, Options, Read, Refusal, Secret, SecretHandle, SecretPages, Watch, WatchOptions};

/// A caller of one broker. Clones share its connection.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    authorization: Authorization,
    patience: Patience,
}

/// The channel under the generated clients, with the token on every call.
pub type Authorized = InterceptedService<Channel, Authorization>;

/// Puts the token, if there is one, on a call.
#[derive(Clone, Debug)]
pub struct Authorization(Option<Arc<Bearer>>);

impl Client {
    /// Reads the files and connects. A token that cannot be read is an error here rather than at the first call.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let endpoint = endpoint(&options)?;
        let authorization = Authorization(options.token.map(Bearer::new).map(Arc::new));
        authorization.authorize(&mut Request::new(()))?;
        let patience = Patience { deadline: options.deadline, attempts: options.attempts };
        let channel = tokio::time::timeout(options.deadline, endpoint.connect())
            .await
            .map_err(|_| Error::Deadline(options.deadline))?
            .map_err(|error| Error::Connect(options.endpoint, error))?;
        Ok(Self { channel, authorization, patience })
    }

    /// Reads one version of a secret: the latest, where the name does not say which.
    pub async fn get_secret(&self, read: impl Into<Read>) -> Result<Secret, Error> {
        let Read(request) = read.into();
        let call = |left| {
            let request = self.request(request.clone(), left);
            async { Ok(self.plain().get_secret(request?).await.map_err(Refusal::from)?.into_inner()) }
        };
        Ok(Secret::from_answer(self.patience.call(call).await?)?)
    }

    /// Reads several, each with its own outcome, in the order asked for; at most 100.
    pub async fn batch_get<R: Into<Read>>(
        &self,
        reads: impl IntoIterator<Item = R>,
    ) -> Result<Vec<Result<Secret, Error>>, Error> {
        let requests: Vec<_> = reads.into_iter().map(|read| read.into().0).collect();
        let asked = requests.len();
        let message = BatchGetSecretsRequest { requests };
        let call = |left| {
            let request = self.request(message.clone(), left);
            async { Ok(self.plain().batch_get_secrets(request?).await.map_err(Refusal::from)?.into_inner()) }
        };
        let results = self.patience.call(call).await?.results;
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

    pub(crate) async fn page_of_secrets(&self, message: &ListSecretsRequest) -> Result<ListSecretsResponse, Error> {
        let call = |left| {
            let request = self.request(message.clone(), left);
            async { Ok(self.plain().list_secrets(request?).await.map_err(Refusal::from)?.into_inner()) }
        };
        self.patience.call(call).await
    }

    /// Rotations as they happen, through restarts and lost connections. Nothing is asked before [`Watch::next`].
    pub fn watch(&self, options: WatchOptions) -> Watch {
        Watch::new(self.clone(), options)
    }

    /// A secret that stays the current one. Under a subscriber's name each version taken up is acknowledged, so that the
    /// one before can retire.
    pub async fn follow(&self, name: impl Into<String>, subscriber: Option<String>) -> Result<SecretHandle, Error> {
        SecretHandle::start(self.clone(), name.into(), subscriber).await
    }

    /// The deadline is for the broker's first word; a watch itself has none.
    pub(crate) async fn open_watch(
        &self,
        message: &WatchRotationsRequest,
    ) -> Result<Streaming<WatchRotationsResponse>, Error> {
        let mut request = Request::new(message.clone());
        self.authorization.authorize(&mut request)?;
        let mut service = RotationServiceClient::new(self.channel.clone());
        let opening = tokio::time::timeout(self.patience.deadline, service.watch_rotations(request));
        let opened = opening.await.map_err(|_| Error::Deadline(self.patience.deadline))?;
        Ok(opened.map_err(Refusal::from)?.into_inner())
    }

    /// The generated client. Deadlines and retries are its user's affair.
    pub fn secret_service(&self) -> SecretServiceClient<Authorized> {
        SecretServiceClient::with_interceptor(self.channel.clone(), self.authorization.clone())
    }

    /// The generated client; see [`Client::secret_service`].
    pub fn token_service(&self) -> TokenServiceClient<Authorized> {
        TokenServiceClient::with_interceptor(self.channel.clone(), self.authorization.clone())
    }

    /// The generated client; see [`Client::secret_service`].
    pub fn rotation_service(&self) -> RotationServiceClient<Authorized> {
        RotationServiceClient::with_interceptor(self.channel.clone(), self.authorization.clone())
    }

    /// The generated client; see [`Client::secret_service`].
    pub fn operator_service(&self) -> OperatorServiceClient<Authorized> {
        OperatorServiceClient::with_interceptor(self.channel.clone(), self.authorization.clone())
    }

    /// Without the interceptor, which could not tell a token that cannot be read from a refusal.
    fn plain(&self) -> SecretServiceClient<Channel> {
        SecretServiceClient::new(self.channel.clone())
    }

    fn request<T>(&self, message: T, left: Duration) -> Result<Request<T>, TokenError> {
        let mut request = Request::new(message);
        request.set_timeout(left);
        self.authorization.authorize(&mut request)?;
        Ok(request)
    }
}

impl Authorization {
    fn authorize<T>(&self, request: &mut Request<T>) -> Result<(), TokenError> {
        if let Some(bearer) = &self.0 {
            request.metadata_mut().insert("authorization", bearer.header()?);
        }
        Ok(())
    }
}

impl Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        self.authorize(&mut request).map_err(|error| Status::unauthenticated(error.to_string()))?;
        Ok(request)
    }
}

fn endpoint(options: &Options) -> Result<Endpoint, Error> {
    let malformed = || Error::Endpoint(options.endpoint.clone());
    let endpoint = Endpoint::from_shared(options.endpoint.clone()).map_err(|_| malformed())?;
    // With another scheme tonic would leave TLS out, and certificate and token would go nowhere or anywhere.
    if endpoint.uri().scheme_str() != Some("https") {
        return Err(malformed());
    }
    let mut tls = match &options.ca {
        Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    match (&options.certificate, &options.key) {
        (Some(certificate), Some(key)) => tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?)),
        (None, None) => {}
        (Some(_), None) | (None, Some(_)) => return Err(Error::HalfIdentity),
    }
    if let Some(name) = &options.server_name {
        tls = tls.domain_name(name);
    }
    endpoint.connect_timeout(options.deadline).tls_config(tls).map_err(Error::Tls)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    std::fs::read(path).map(Zeroizing::new).map_err(|error| Error::File(path.to_owned(), error))
}

fn outcome(result: BatchGetSecretsResult) -> Result<Secret, Error> {
    match result.result {
        Some(Outcome::Secret(answer)) => Ok(Secret::from_answer(answer)?),
        Some(Outcome::Error(detail)) => Err(Refusal::from(detail).into()),
        None => Err(Error::Unexpected("a batch with an outcome left empty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_certificate_with_its_key_or_neither() {
        let mut options = Options::new("https://localhost:1", "/absent", "/absent", "/absent");
        options.ca = None;
        options.key = None;
        assert!(matches!(endpoint(&options), Err(Error::HalfIdentity)));
        options.certificate = None;
        endpoint(&options).unwrap();
    }
}
