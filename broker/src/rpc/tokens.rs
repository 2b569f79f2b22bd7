//! `TokenService`: answers that it is to come, to callers who are known.

use keyferry_proto::v1::token_service_server::TokenService;
use keyferry_proto::v1::{
    ListDatabaseRolesRequest, ListDatabaseRolesResponse, ListLeasesRequest, ListLeasesResponse,
    MintDatabaseTokenRequest, MintDatabaseTokenResponse, RenewLeaseRequest, RenewLeaseResponse, RevokeLeaseRequest,
    RevokeLeaseResponse,
};
use tonic::{Request, Response, Status};

use super::call::{not_yet, reply};

#[derive(Clone, Copy, Debug)]
pub(super) struct TokenRpc;

#[tonic::async_trait]
impl TokenService for TokenRpc {
    async fn list_database_roles(
        &self,
        request: Request<ListDatabaseRolesRequest>,
    ) -> Result<Response<ListDatabaseRolesResponse>, Status> {
        reply(request, |_, _| not_yet("ListDatabaseRoles")).await
    }

    async fn mint_database_token(
        &self,
        request: Request<MintDatabaseTokenRequest>,
    ) -> Result<Response<MintDatabaseTokenResponse>, Status> {
        reply(request, |_, _| not_yet("MintDatabaseToken")).await
    }

    async fn renew_lease(&self, request: Request<RenewLeaseRequest>) -> Result<Response<RenewLeaseResponse>, Status> {
        reply(request, |_, _| not_yet("RenewLease")).await
    }

    async fn revoke_lease(
        &self,
        request: Request<RevokeLeaseRequest>,
    ) -> Result<Response<RevokeLeaseResponse>, Status> {
        reply(request, |_, _| not_yet("RevokeLease")).await
    }

    async fn list_leases(&self, request: Request<ListLeasesRequest>) -> Result<Response<ListLeasesResponse>, Status> {
        reply(request, |_, _| not_yet("ListLeases")).await
    }
}
