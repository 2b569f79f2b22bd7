//! Hands a call to the service that its method belongs to.

use http::{Request, Response};
use keyferry_proto::FILE_DESCRIPTOR_SET;
use keyferry_proto::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryServiceServer;
use keyferry_proto::v1::operator_service_server::OperatorServiceServer;
use keyferry_proto::v1::rotation_service_server::RotationServiceServer;
use keyferry_proto::v1::secret_service_server::SecretServiceServer;
use keyferry_proto::v1::token_service_server::TokenServiceServer;
use tonic::body::Body;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;
use tower::util::BoxCloneSyncService;
use tower::{Service as _, ServiceExt as _};

use super::envoy::EnvoyRpc;
use super::methods::{Method, Service};
use super::operator::OperatorRpc;
use super::rotations::RotationRpc;
use super::secrets::SecretRpc;
use super::tokens::TokenRpc;
use super::watch::WatchRpc;

/// The generated servers, each bounded in what it decodes.
#[derive(Clone, Debug)]
pub struct Router {
    secrets: SecretServiceServer<SecretRpc>,
    tokens: TokenServiceServer<TokenRpc>,
    rotations: RotationServiceServer<RotationRpc>,
    watch: WatchRpc,
    operator: OperatorServiceServer<OperatorRpc>,
    envoy: SecretDiscoveryServiceServer<EnvoyRpc>,
    health: HealthServer<HealthService>,
    reflection: BoxCloneSyncService<Request<Body>, Response<Body>, std::convert::Infallible>,
}

impl Router {
    pub fn new(
        secrets: SecretRpc,
        tokens: TokenRpc,
        rotations: RotationRpc,
        operator: OperatorRpc,
        envoy: EnvoyRpc,
        health: HealthService,
        message_bytes: usize,
    ) -> Result<Self, tonic_reflection::server::Error> {
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            // For grpcurl to show the details of an error instead of their bytes.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        Ok(Self {
            secrets: SecretServiceServer::new(secrets).max_decoding_message_size(message_bytes),
            tokens: TokenServiceServer::new(tokens).max_decoding_message_size(message_bytes),
            watch: WatchRpc { watches: rotations.watches.clone(), message_bytes },
            rotations: RotationServiceServer::new(rotations).max_decoding_message_size(message_bytes),
            operator: OperatorServiceServer::new(operator).max_decoding_message_size(message_bytes),
            envoy: SecretDiscoveryServiceServer::new(envoy).max_decoding_message_size(message_bytes),
            health: HealthServer::new(health).max_decoding_message_size(message_bytes),
            reflection: BoxCloneSyncService::new(reflection.max_decoding_message_size(message_bytes)),
        })
    }

    pub async fn call(&self, method: &Method, request: Request<Body>) -> Response<Body> {
        let answer = match method.service {
            Service::Secrets => self.secrets.clone().call(request).await,
            Service::Tokens => self.tokens.clone().call(request).await,
            // Boxed, or the future of every call would be as large as a stream's.
            Service::Rotations if method.streams => Box::pin(self.watch.call(request)).await,
            Service::Rotations => self.rotations.clone().call(request).await,
            Service::Operator => self.operator.clone().call(request).await,
            Service::Envoy => self.envoy.clone().call(request).await,
            Service::Health => self.health.clone().call(request).await,
            Service::Reflection => Box::pin(self.reflection.clone().oneshot(request)).await,
        };
        match answer {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}
