//! The API as gRPC, without TLS. Of the faults, those in Google's own form and black holes apply.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::Backend;
use super::method::Method;
use super::refusal::Refusal;
use super::vault::Vault;
use crate::doubles::faults::Fault;

#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(backend: Arc<Backend>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(SecretManagerService { backend });
        let serving = tokio::spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { address, serving }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[derive(Clone)]
struct SecretManagerService {
    backend: Arc<Backend>,
}

impl NamedService for SecretManagerService {
    const NAME: &'static str = "google.cloud.secretmanager.v1.SecretManagerService";
}

impl Service<http::Request<Body>> for SecretManagerService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let backend = Arc::clone(&self.backend);
        Box::pin(async move {
            let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            let Some(method) = Method::ALL.into_iter().find(|method| format!("{method:?}") == name) else {
                return Ok(Status::unimplemented(name).into_http());
            };
            let answer = match method {
                Method::ListSecrets => unary(backend, method, Vault::list_secrets, request).await,
                Method::CreateSecret => unary(backend, method, Vault::create_secret, request).await,
                Method::GetSecret => unary(backend, method, Vault::get_secret, request).await,
                Method::UpdateSecret => unary(backend, method, Vault::update_secret, request).await,
                Method::DeleteSecret => unary(backend, method, Vault::delete_secret, request).await,
                Method::AddSecretVersion => unary(backend, method, Vault::add_version, request).await,
                Method::GetSecretVersion => unary(backend, method, Vault::get_version, request).await,
                Method::AccessSecretVersion => unary(backend, method, Vault::access_version, request).await,
                Method::ListSecretVersions => unary(backend, method, Vault::list_versions, request).await,
                Method::EnableSecretVersion => unary(backend, method, Vault::enable_version, request).await,
                Method::DisableSecretVersion => unary(backend, method, Vault::disable_version, request).await,
                Method::DestroySecretVersion => unary(backend, method, Vault::destroy_version, request).await,
            };
            Ok(answer)
        })
    }
}

/// What a request does to what is kept.
type Run<M, R> = fn(&mut Vault, &M) -> Result<R, Refusal>;

struct Unary<M, R> {
    backend: Arc<Backend>,
    method: Method,
    run: Run<M, R>,
}

async fn unary<M, R>(
    backend: Arc<Backend>,
    method: Method,
    run: Run<M, R>,
    request: http::Request<Body>,
) -> http::Response<Body>
where
    M: Message + Default + 'static,
    R: Message + Default + 'static,
{
    Grpc::new(ProstCodec::<R, M>::default()).unary(Unary { backend, method, run }, request).await
}

impl<M: Message + 'static, R: Message + 'static> UnaryService<M> for Unary<M, R> {
    type Response = R;
    type Future = BoxFuture<'static, Result<Response<R>, Status>>;

    fn call(&mut self, request: Request<M>) -> Self::Future {
        let authorization = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
        let admitted = self.backend.admit(self.method, token, "the resource");
        let (backend, run) = (Arc::clone(&self.backend), self.run);
        Box::pin(async move {
            if admitted.map_err(|refusal| refusal.status())? == Some(Fault::BlackHole) {
                std::future::pending::<()>().await;
            }
            let answer = run(&mut backend.vault.lock().unwrap(), request.get_ref());
            answer.map(Response::new).map_err(|refusal| refusal.status())
        })
    }
}
