//! `TokenService`: proto in, domain call, proto out.

use std::sync::Arc;
use std::time::Duration;

use keyferry_proto::v1::revoke_lease_request::Target;
use keyferry_proto::v1::token_service_server::TokenService;
use keyferry_proto::v1::{
    DatabaseRole, LeaseSelector, LeaseState, ListDatabaseRolesRequest, ListDatabaseRolesResponse, ListLeasesRequest,
    ListLeasesResponse, MintDatabaseTokenRequest, MintDatabaseTokenResponse, RenewLeaseRequest, RenewLeaseResponse,
    RevokeLeaseRequest, RevokeLeaseResponse,
};
use tonic::{Request, Response, Status};

use super::call::{Call, answer, reply};
use super::lease_messages::{Asked, RolePrefix, disclosed, lease_message, role_message, state_of, ttl};
use super::page_token::{Binding, PageTokens, page_size};
use super::secret_messages::bad_name;
use super::token_messages::{self, client_key};
use crate::admission::{Action, Resource};
use crate::audit::Receipt;
use crate::databases::leases::{self, Lease, Leases, Wish, no_such_lease};
use crate::databases::tokens::{self, Tokens};
use crate::error::{Failure, Reason};
use crate::names::{DatabaseName, LeaseName, RoleName};
use crate::requests::RequestId;

/// How long an answer waits for a revoked user to be gone; the decision is durable before.
const REVOKE_PATIENCE: Duration = Duration::from_secs(3);
const MAX_JUSTIFICATION: usize = 256;

#[derive(Clone, Debug)]
pub struct TokenRpc {
    pub leases: Leases,
    pub tokens: Tokens,
    pub page_tokens: Arc<PageTokens>,
}

/// What ends with its lease, or by itself.
enum Minted {
    Leased(Box<leases::Minted>),
    ByItself(Box<tokens::Issued>),
}

#[tonic::async_trait]
impl TokenService for TokenRpc {
    async fn list_database_roles(
        &self,
        request: Request<ListDatabaseRolesRequest>,
    ) -> Result<Response<ListDatabaseRolesResponse>, Status> {
        reply(request, |call, message| async move {
            call.meter()?;
            let database = match message.parent.as_str() {
                "databases/-" => None,
                parent => Some(DatabaseName::parse(parent).map_err(bad_name("parent"))?),
            };
            let binding = Binding::of(&[call.caller.id(), call.method.path, &message.parent]);
            let place = self.page_tokens.open(&message.page_token, binding)?;
            let size = page_size(message.page_size)?;
            let wanted = |role: &RoleName| {
                database.as_ref().is_none_or(|database| role.database() == database.as_str())
                    && place.as_deref().is_none_or(|place| role.as_str() > place)
                    && call.may(Action::ListDatabaseRoles, &Resource::DatabaseRole(role.clone()))
            };
            let leased = self.leases.roles().filter(|(name, ..)| wanted(name));
            let mut roles: Vec<(RoleName, DatabaseRole)> = leased
                .map(|(name, role, database)| (name.clone(), role_message(&name, role, &database.settings)))
                .chain(
                    self.tokens
                        .roles()
                        .filter(|(name, _)| wanted(name))
                        .map(|(name, facts)| (name.clone(), token_messages::role_message(name, facts))),
                )
                .collect();
            roles.sort_by(|(one, _), (other, _)| one.cmp(other));
            let more = roles.len() > size;
            roles.truncate(size);
            let next_page_token = match roles.last().filter(|_| more) {
                Some((last, _)) => self.page_tokens.seal(last.as_str(), binding)?,
                None => String::new(),
            };
            let roles = roles.into_iter().map(|(_, role)| role).collect();
            Ok(ListDatabaseRolesResponse { roles, next_page_token })
        })
        .await
    }

    async fn mint_database_token(
        &self,
        request: Request<MintDatabaseTokenRequest>,
    ) -> Result<Response<MintDatabaseTokenResponse>, Status> {
        answer(request, |call, mut message| async move {
            let role = RoleName::parse(&message.name).map_err(bad_name("name"))?;
            let id = std::mem::take(&mut message.request_id);
            let request = request_id(&call, &id, &message)?;
            let (ttl, client_key) = (ttl(message.ttl.as_ref())?, client_key(message.client_key)?);
            let credential_ends = call.caller.ends();
            let ends_by_itself = self.tokens.has(&role);
            let permit = call.admit(Resource::DatabaseRole(role))?;
            let minted = if ends_by_itself {
                // Nothing is kept that a repeat could be answered with, and nothing that has to be taken back.
                let wish = tokens::Wish { ttl, credential_ends, client_key };
                if message.validate_only {
                    self.tokens.rehearse(&permit, wish).await?;
                    None
                } else {
                    let issued = self.tokens.mint(&permit, wish).await?;
                    call.draft.note(|record| record.credential = issued.id().map(Arc::from));
                    Some(Minted::ByItself(Box::new(issued)))
                }
            } else {
                if client_key.is_some() {
                    let message = "this role mints passwords, for which no key is used; leave client_key out";
                    return Err(Failure::new(Reason::UnsupportedByStore, message));
                }
                let wish = Wish { ttl, credential_ends, request };
                if message.validate_only {
                    self.leases.rehearse(&permit, &wish).await?;
                    None
                } else {
                    call.announce().await?;
                    let minted = self.leases.mint(&permit, wish).await?;
                    call.draft.note(|record| record.lease = Some(minted.lease().name.shared()));
                    Some(Minted::Leased(Box::new(minted)))
                }
            };
            Ok(move |receipt: &Receipt| match minted {
                None => MintDatabaseTokenResponse::default(),
                Some(Minted::Leased(minted)) => disclosed(*minted, receipt),
                Some(Minted::ByItself(issued)) => token_messages::disclosed(*issued, receipt),
            })
        })
        .await
    }

    async fn renew_lease(&self, request: Request<RenewLeaseRequest>) -> Result<Response<RenewLeaseResponse>, Status> {
        reply(request, |call, mut message| async move {
            let name = LeaseName::parse(&message.name).map_err(bad_name("name"))?;
            let id = std::mem::take(&mut message.request_id);
            let request = request_id(&call, &id, &message)?;
            let wish = Wish { ttl: ttl(message.ttl.as_ref())?, credential_ends: call.caller.ends(), request };
            let lease = self.known(&call, &name).await?;
            if *lease.owner != *call.caller.id() {
                return Err(no_such_lease(&name));
            }
            let permit = call.admit(Resource::DatabaseRole(lease.role))?;
            call.announce().await?;
            let lease = self.leases.renew(&permit, &name, &wish).await?;
            Ok(RenewLeaseResponse { lease: Some(lease_message(&lease, &Default::default())) })
        })
        .await
    }

    async fn revoke_lease(
        &self,
        request: Request<RevokeLeaseRequest>,
    ) -> Result<Response<RevokeLeaseResponse>, Status> {
        reply(request, |call, mut message| async move {
            let id = std::mem::take(&mut message.request_id);
            let request = request_id(&call, &id, &message)?;
            if message.justification.chars().count() > MAX_JUSTIFICATION {
                let description = format!("is longer than {MAX_JUSTIFICATION} characters; shorten it");
                return Err(Failure::bad_field(Reason::InvalidArgument, "justification", description));
            }
            match message.target {
                Some(Target::Name(name)) => self.revoke_one(&call, &name, request, message.validate_only).await,
                Some(Target::Selector(selector)) => {
                    self.revoke_selected(&call, &selector, request, message.validate_only).await
                }
                None => {
                    let description = "is missing; write the name of a lease, or a selector";
                    Err(Failure::bad_field(Reason::InvalidArgument, "target", description))
                }
            }
        })
        .await
    }

    async fn list_leases(&self, request: Request<ListLeasesRequest>) -> Result<Response<ListLeasesResponse>, Status> {
        reply(request, |call, message| async move {
            call.meter()?;
            let filter = message.filter.unwrap_or_default();
            let roles = RolePrefix::parse(&filter.role_prefix).map_err(bad_name("filter.role_prefix"))?;
            let parts = [
                call.caller.id(),
                call.method.path,
                &filter.role_prefix,
                &filter.owner,
                &format!("{:?}", filter.states),
            ];
            let binding = Binding::of(&parts);
            let place = self.page_tokens.open(&message.page_token, binding)?;
            let after = place.map(|place| LeaseName::parse(&place)).transpose().map_err(bad_name("page_token"))?;
            let size = page_size(message.page_size)?;
            let mut asked = Asked::new(|role: &RoleName, own| {
                let action = if own { Action::ListLeases } else { Action::ListAnyLease };
                call.may(action, &Resource::DatabaseRole(role.clone()))
            });
            let mut found = self.leases.list(after.as_ref(), size + 1, |lease| {
                let state = state_of(lease);
                let in_state = match filter.states.as_slice() {
                    [] => state != LeaseState::Revoked,
                    states => states.contains(&state.into()),
                };
                in_state
                    && roles.takes_in(&lease.role)
                    && (filter.owner.is_empty() || *filter.owner == *lease.owner)
                    && asked.allows(&lease.role, *lease.owner == *call.caller.id())
            })?;
            let more = found.len() > size;
            found.truncate(size);
            let next_page_token = match found.last().filter(|_| more) {
                Some((last, _)) => self.page_tokens.seal(last.name.as_str(), binding)?,
                None => String::new(),
            };
            let leases = found.iter().map(|(lease, trouble)| lease_message(lease, trouble)).collect();
            Ok(ListLeasesResponse { leases, next_page_token })
        })
        .await
    }
}

impl TokenRpc {
    async fn known(&self, call: &Call, name: &LeaseName) -> Result<Lease, Failure> {
        call.draft.note(|record| record.lease = Some(name.shared()));
        if let Some((lease, _)) = self.leases.heard_of(name) {
            return Ok(lease);
        }
        // Guesses are paid for: each asks the state.
        call.meter()?;
        self.leases.find(name).await.map(|(lease, _)| lease)
    }

    async fn revoke_one(
        &self,
        call: &Call,
        name: &str,
        request: Option<RequestId>,
        dry: bool,
    ) -> Result<RevokeLeaseResponse, Failure> {
        let name = LeaseName::parse(name).map_err(bad_name("name"))?;
        let lease = self.known(call, &name).await?;
        let own = *lease.owner == *call.caller.id();
        let action = if own { Action::RevokeLease } else { Action::RevokeAnyLease };
        let permit = call.admit_to(action, Resource::DatabaseRole(lease.role)).map_err(|failure| {
            let hidden = !own && failure.reason() == Reason::AccessDenied;
            if hidden { no_such_lease(&name) } else { failure }
        })?;
        if !dry {
            if let Some(id) = request {
                self.leases.remember(call.caller.id(), &id).await?;
            }
            call.announce().await?;
            self.leases.revoke(&permit, &name).await?;
            self.leases.watch_first_try(&name, REVOKE_PATIENCE).await;
        }
        let (lease, trouble) = self.leases.find(&name).await?;
        Ok(RevokeLeaseResponse { lease: Some(lease_message(&lease, &trouble)), matched_count: 1 })
    }

    async fn revoke_selected(
        &self,
        call: &Call,
        selector: &LeaseSelector,
        request: Option<RequestId>,
        dry: bool,
    ) -> Result<RevokeLeaseResponse, Failure> {
        let roles = RolePrefix::parse(&selector.role_prefix).map_err(bad_name("selector.role_prefix"))?;
        if matches!(roles, RolePrefix::Any) && selector.owner.is_empty() {
            let description = "selects everything; write a role_prefix or an owner";
            return Err(Failure::bad_field(Reason::InvalidArgument, "selector", description));
        }
        // Each role is asked for once, whether or not it has leases, so that a refusal tells nothing of them.
        let (mut permits, mut refusal) = (Vec::new(), None);
        for (role, ..) in self.leases.roles().filter(|(role, ..)| roles.takes_in(role)) {
            match call.admit_to(Action::RevokeAnyLease, Resource::DatabaseRole(role)) {
                Ok(permit) => permits.push(permit),
                Err(failure) => refusal = Some(failure),
            }
        }
        if let Some(refusal) = refusal.filter(|_| permits.is_empty()) {
            return Err(refusal);
        }
        if !dry {
            if let Some(id) = request {
                self.leases.remember(call.caller.id(), &id).await?;
            }
            call.announce().await?;
        }
        let mut matched_count = 0;
        for permit in permits {
            let selected = self.leases.list(None, usize::MAX, |lease| {
                lease.is_live()
                    && matches!(permit.resource(), Resource::DatabaseRole(role) if *role == lease.role)
                    && (selector.owner.is_empty() || *selector.owner == *lease.owner)
            })?;
            for (lease, _) in selected {
                matched_count += 1;
                if !dry {
                    self.leases.revoke(&permit, &lease.name).await?;
                }
            }
        }
        Ok(RevokeLeaseResponse { lease: None, matched_count })
    }
}

/// Two calls are the same when their methods and all other fields are, which are the `rest`.
fn request_id(call: &Call, id: &str, rest: &impl prost::Message) -> Result<Option<RequestId>, Failure> {
    let rest = if id.is_empty() { Vec::new() } else { rest.encode_to_vec() };
    RequestId::parse(id, &[call.method.path.as_bytes(), &rest])
}
