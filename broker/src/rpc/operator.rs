//! `OperatorService`: who am I, and how is the broker.

use std::sync::Arc;

use keyferry_proto::v1::operator_service_server::OperatorService;
use keyferry_proto::v1::{
    BrokerStatus, CallerCertificate, ExplainAccessRequest, ExplainAccessResponse, GetStatusRequest, GetStatusResponse,
    RefreshSecretRequest, RefreshSecretResponse, WhoAmIRequest, WhoAmIResponse,
};
use tonic::{Request, Response, Status};

use super::call::{not_yet, reply};
use super::proto_time::timestamp;
use crate::admission::Resource;
use crate::identity::{Caller, Certificate};

/// Gathers the status from the parts that the composition root knows.
pub type StatusReport = dyn Fn() -> BrokerStatus + Send + Sync;

#[derive(Clone)]
pub struct OperatorRpc {
    pub status: Arc<StatusReport>,
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
        reply(request, |_, _| not_yet("ExplainAccess")).await
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

fn caller_message(caller: &Caller) -> keyferry_proto::v1::Caller {
    keyferry_proto::v1::Caller {
        id: caller.id().to_owned(),
        certificate: caller.certificate().map(certificate_message),
        token: None,
        expire_time: Some(timestamp(caller.ends())),
    }
}

fn certificate_message(certificate: &Certificate) -> CallerCertificate {
    CallerCertificate {
        subject: certificate.subject().to_owned(),
        issuer: certificate.issuer().to_owned(),
        spiffe_id: certificate.spiffe_id().ok().flatten().map(ToString::to_string).unwrap_or_default(),
        dns_names: certificate.dns_names().to_vec(),
        uris: certificate.uris().to_vec(),
        sha256_fingerprint: certificate.thumbprint().to_string(),
        serial_number: certificate.serial().to_owned(),
        not_before_time: Some(timestamp(certificate.not_before())),
        not_after_time: Some(timestamp(certificate.not_after())),
    }
}
