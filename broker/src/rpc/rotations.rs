//! `RotationService`: proto in, domain call, proto out.

use std::sync::Arc;

use keyferry_proto::v1::rotation_service_server::RotationService;
use keyferry_proto::v1::{
    AcknowledgeRotationRequest, AcknowledgeRotationResponse, CancelRotationRequest, CancelRotationResponse,
    GetRotationRequest, GetRotationResponse, ListRotationsRequest, ListRotationsResponse, ListSubscribersRequest,
    ListSubscribersResponse, RetireRotationRequest, RetireRotationResponse, RotateSecretRequest, RotateSecretResponse,
    WatchRotationsRequest, WatchRotationsResponse,
};
use tonic::{Request, Response, Status};

use super::call::reply;
use super::page_token::PageTokens;
use super::rotating::Rotating;
use super::subscribers;
use crate::error::{Failure, Reason};
use crate::rotation::watch::Watches;

/// The service, on the engine, the watches and the gate that each call brings along.
#[derive(Clone, Debug)]
pub struct RotationRpc {
    pub rotating: Rotating,
    pub watches: Watches,
    pub page_tokens: Arc<PageTokens>,
}

#[tonic::async_trait]
impl RotationService for RotationRpc {
    type WatchRotationsStream = tokio_stream::Empty<Result<WatchRotationsResponse, Status>>;

    async fn rotate_secret(
        &self,
        request: Request<RotateSecretRequest>,
    ) -> Result<Response<RotateSecretResponse>, Status> {
        reply(request, |call, message| self.rotating.rotate(call, message)).await
    }

    async fn get_rotation(
        &self,
        request: Request<GetRotationRequest>,
    ) -> Result<Response<GetRotationResponse>, Status> {
        reply(request, |call, message| self.rotating.get(call, message)).await
    }

    async fn list_rotations(
        &self,
        request: Request<ListRotationsRequest>,
    ) -> Result<Response<ListRotationsResponse>, Status> {
        reply(request, |call, message| self.rotating.list(call, message)).await
    }

    async fn cancel_rotation(
        &self,
        request: Request<CancelRotationRequest>,
    ) -> Result<Response<CancelRotationResponse>, Status> {
        reply(request, |call, message| self.rotating.cancel(call, message)).await
    }

    async fn retire_rotation(
        &self,
        request: Request<RetireRotationRequest>,
    ) -> Result<Response<RetireRotationResponse>, Status> {
        reply(request, |call, message| self.rotating.retire(call, message)).await
    }

    /// The router takes it past this service, to [`super::watch::WatchRpc`].
    async fn watch_rotations(
        &self,
        _: Request<WatchRotationsRequest>,
    ) -> Result<Response<Self::WatchRotationsStream>, Status> {
        Err(Failure::new(Reason::Internal, "a watch reached the wrong handler; report this").into())
    }

    async fn acknowledge_rotation(
        &self,
        request: Request<AcknowledgeRotationRequest>,
    ) -> Result<Response<AcknowledgeRotationResponse>, Status> {
        reply(request, |call, message| subscribers::acknowledge(&self.watches, call, message)).await
    }

    async fn list_subscribers(
        &self,
        request: Request<ListSubscribersRequest>,
    ) -> Result<Response<ListSubscribersResponse>, Status> {
        reply(request, |call, message| subscribers::list(&self.watches, &self.page_tokens, call, message)).await
    }
}
