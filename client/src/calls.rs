use std::future::Future;

use keyferry_proto::v1::operator_service_client::OperatorServiceClient;
use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::token_service_client::TokenServiceClient;
use keyferry_proto::v1::*;
use tonic::{Request, Response, Status};

use crate::Link;
use crate::chance;

/// A request that [`crate::Client::call`] carries: every method of the contract that is no stream.
pub trait Call: Clone + Send + Sync + sealed::Sealed + 'static {
    type Answer: Send;

    /// Makes a repeat of a change harmless.
    #[doc(hidden)]
    fn identify(&mut self);

    #[doc(hidden)]
    fn send(link: Link, request: Request<Self>) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! calls {
    ($($client:ident { $($method:ident($request:ident $(, $id:ident)?) -> $answer:ident;)* })*) => {$($(
        impl sealed::Sealed for $request {}

        impl Call for $request {
            type Answer = $answer;

            fn identify(&mut self) {
                $(if self.$id.is_empty() {
                    self.$id = chance::uuid();
                })?
            }

            async fn send(link: Link, request: Request<Self>) -> Result<Response<$answer>, Status> {
                $client::new(link).$method(request).await
            }
        }
    )*)*};
}

// What names no `request_id` may be repeated as it is.
calls! {
    SecretServiceClient {
        get_secret(GetSecretRequest) -> GetSecretResponse;
        batch_get_secrets(BatchGetSecretsRequest) -> BatchGetSecretsResponse;
        list_secrets(ListSecretsRequest) -> ListSecretsResponse;
        list_secret_versions(ListSecretVersionsRequest) -> ListSecretVersionsResponse;
        add_secret_version(AddSecretVersionRequest, request_id) -> AddSecretVersionResponse;
        enable_secret_version(EnableSecretVersionRequest, request_id) -> EnableSecretVersionResponse;
        disable_secret_version(DisableSecretVersionRequest, request_id) -> DisableSecretVersionResponse;
    }
    TokenServiceClient {
        list_database_roles(ListDatabaseRolesRequest) -> ListDatabaseRolesResponse;
        mint_database_token(MintDatabaseTokenRequest, request_id) -> MintDatabaseTokenResponse;
        renew_lease(RenewLeaseRequest, request_id) -> RenewLeaseResponse;
        revoke_lease(RevokeLeaseRequest, request_id) -> RevokeLeaseResponse;
        list_leases(ListLeasesRequest) -> ListLeasesResponse;
    }
    RotationServiceClient {
        rotate_secret(RotateSecretRequest, request_id) -> RotateSecretResponse;
        get_rotation(GetRotationRequest) -> GetRotationResponse;
        list_rotations(ListRotationsRequest) -> ListRotationsResponse;
        cancel_rotation(CancelRotationRequest, request_id) -> CancelRotationResponse;
        retire_rotation(RetireRotationRequest, request_id) -> RetireRotationResponse;
        acknowledge_rotation(AcknowledgeRotationRequest) -> AcknowledgeRotationResponse;
        list_subscribers(ListSubscribersRequest) -> ListSubscribersResponse;
    }
    OperatorServiceClient {
        who_am_i(WhoAmIRequest) -> WhoAmIResponse;
        explain_access(ExplainAccessRequest) -> ExplainAccessResponse;
        get_status(GetStatusRequest) -> GetStatusResponse;
        refresh_secret(RefreshSecretRequest) -> RefreshSecretResponse;
    }
}
