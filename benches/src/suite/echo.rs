//! What a call costs without a broker: a service of tonic's that has its answer ready, behind the same TLS.

use std::fs;
use std::path::Path;

use keyferry_benches::Outcome;
use keyferry_proto::v1::secret_service_server::{SecretService, SecretServiceServer};
use keyferry_proto::v1::{
    AddSecretVersionRequest, AddSecretVersionResponse, BatchGetSecretsRequest, BatchGetSecretsResponse,
    DisableSecretVersionRequest, DisableSecretVersionResponse, EnableSecretVersionRequest, EnableSecretVersionResponse,
    GetSecretRequest, GetSecretResponse, ListSecretVersionsRequest, ListSecretVersionsResponse, ListSecretsRequest,
    ListSecretsResponse, ReadSource,
};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::broker::PAYLOAD;

/// Tells its port, and serves until it is killed.
pub(crate) fn serve(directory: &Path) -> Outcome<()> {
    let read = |name: &str| fs::read(directory.join(name));
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(read("server.pem")?, read("server.key")?))
        .client_ca_root(Certificate::from_pem(read("ca.pem")?));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?.port());
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = Server::builder().tls_config(tls)?.add_service(SecretServiceServer::new(Echo::new()));
        Ok(server.serve_with_incoming(incoming).await?)
    })
}

struct Echo(GetSecretResponse);

impl Echo {
    /// As long as the broker's answer.
    fn new() -> Self {
        let time = prost_types::Timestamp { seconds: 1_800_000_000, nanos: 123_456_789 };
        Self(GetSecretResponse {
            name: String::new(),
            payload: PAYLOAD.to_vec().into(),
            payload_crc32c: 0xdead_beef,
            source: ReadSource::Cache.into(),
            load_time: Some(time),
            revision: 1,
            epoch: "0123456789abcdef0123456789abcdef".to_owned(),
            fresh_until_time: Some(time),
            create_time: Some(time),
            ..GetSecretResponse::default()
        })
    }
}

#[tonic::async_trait]
impl SecretService for Echo {
    async fn get_secret(&self, request: Request<GetSecretRequest>) -> Result<Response<GetSecretResponse>, Status> {
        let name = request.into_inner().name + "/versions/1";
        Ok(Response::new(GetSecretResponse { name, ..self.0.clone() }))
    }

    async fn batch_get_secrets(
        &self,
        _: Request<BatchGetSecretsRequest>,
    ) -> Result<Response<BatchGetSecretsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_secrets(&self, _: Request<ListSecretsRequest>) -> Result<Response<ListSecretsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_secret_versions(
        &self,
        _: Request<ListSecretVersionsRequest>,
    ) -> Result<Response<ListSecretVersionsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn add_secret_version(
        &self,
        _: Request<AddSecretVersionRequest>,
    ) -> Result<Response<AddSecretVersionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn enable_secret_version(
        &self,
        _: Request<EnableSecretVersionRequest>,
    ) -> Result<Response<EnableSecretVersionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn disable_secret_version(
        &self,
        _: Request<DisableSecretVersionRequest>,
    ) -> Result<Response<DisableSecretVersionResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
