//! `OperatorService`: who am I, why may I not, and how is the broker.

use std::sync::Arc;

use keyferry_proto::v1::operator_service_server::OperatorService;
use keyferry_proto::v1::{
    BrokerStatus, ExplainAccessRequest, ExplainAccessResponse, GetStatusRequest, GetStatusResponse,
    RefreshSecretRequest, RefreshSecretResponse, WhoAmIRequest, WhoAmIResponse,
};
use tonic::{Request, Response, Status};

use super::call::{not_yet, reply};
use super::caller_message::caller_message;
use crate::admission::Resource;
use crate::identity::token::TokenVerifier;
use crate::secrets::Secrets;

/// Gathers the status from the parts that the composition root knows.
pub type StatusReport = dyn Fn() -> BrokerStatus + Send + Sync;

#[derive(Clone)]
pub struct OperatorRpc {
    pub status: Arc<StatusReport>,
    /// For the labels that an explained decision turns on.
    pub secrets: Secrets,
    /// For the tokens that an operator has examined.
    pub tokens: Arc<TokenVerifier>,
}

#[tonic::async_trait]
impl OperatorService for OperatorRpc {
    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Result<Response<WhoAmIResponse>, Status> {
        reply(request, |call, _| async move {
            let _permit = call.admit(Resource::Broker)?;
            let caller = Some(caller_message(&call.caller));
            Ok(WhoAmIResponse { caller, policy_hash: call.gate.policies().current().hash().to_string() })
        })
        .await
    }

    async fn explain_access(
        &self,
        request: Request<ExplainAccessRequest>,
    ) -> Result<Response<ExplainAccessResponse>, Status> {
        reply(request, |call, message| async move { self.explain(&call, message).await }).await
    }

    async fn get_status(&self, request: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        reply(request, |call, _| async move {
            let _permit = call.admit(Resource::Broker)?;
            Ok(GetStatusResponse { status: Some((self.status)()) })
        })
        .await
    }

    async fn refresh_secret(
        &self,
        request: Request<RefreshSecretRequest>,
    ) -> Result<Response<RefreshSecretResponse>, Status> {
        reply(request, |_, _| not_yet("RefreshSecret")).await
    }
}

impl std::fmt::Debug for OperatorRpc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OperatorRpc")
    }
}
