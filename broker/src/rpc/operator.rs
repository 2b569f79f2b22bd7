//! `OperatorService`: who am I, why may I not, and how is the broker.

use std::sync::Arc;

use keyferry_proto::v1::operator_service_server::OperatorService;
use keyferry_proto::v1::{
    BrokerStatus, ExplainAccessRequest, ExplainAccessResponse, GetStatusRequest, GetStatusResponse,
    RefreshSecretRequest, RefreshSecretResponse, WhoAmIRequest, WhoAmIResponse,
};
use tonic::{Request, Response, Status};

use super::call::reply;
use super::caller_message::caller_message;
use super::proto_time::timestamp;
use super::secret_access::{Wanted, admit};
use super::secret_messages::{bad_name, place};
use crate::admission::Resource;
use crate::identity::token::TokenVerifier;
use crate::names::{VersionId, VersionName};
use crate::secrets::{Refreshed, Secrets};

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
        reply(request, |call, message| async move {
            let (name, _) = VersionName::parse_or_latest(&message.name).map_err(bad_name("name"))?;
            let wrong = self.secrets.check_version(&name.secret, &name.version);
            let wanted = Wanted { secret: &name.secret, wrong, creation: None };
            let permit = admit(&self.secrets, &call, wanted).await?;
            let Refreshed { read, changed } = self.secrets.refresh(&permit, &name.version).await?;
            let version = Arc::clone(&read.fetched.version.id);
            call.draft.note(|record| record.version = Some(Arc::clone(&version)));
            let (revision, epoch) = place(read.position);
            Ok(RefreshSecretResponse {
                name: name.secret.version(VersionId::Exact(version)).to_string(),
                load_time: Some(timestamp(read.loaded)),
                revision,
                epoch,
                changed,
            })
        })
        .await
    }
}

impl std::fmt::Debug for OperatorRpc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OperatorRpc")
    }
}
