//! `keyferry leases`

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use keyferry_proto::v1::revoke_lease_request::Target;
use keyferry_proto::v1::{
    Lease, LeaseFilter, LeaseRevokeCause, LeaseSelector, LeaseState, ListLeasesRequest, RenewLeaseRequest,
    RevokeLeaseRequest,
};
use serde_json::{Value, json};

use super::connection::{Asking, Connection, block_on};
use super::failure::Failure;
use super::text::{facts, plain, reason, relative, time, told};
use super::{Complaint, names};
use crate::config::parse_duration;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// The leases that you may see
    List(ListArgs),
    /// One lease
    Show(ShowArgs),
    /// Let one live longer
    Renew(RenewArgs),
    /// End one, or all of a role or of an owner
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    asking: Asking,
    /// Of this role, DATABASE/ROLE, or of all roles whose names begin so
    #[arg(long, value_name = "NAME")]
    role: Option<String>,
    /// Of this caller
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    owner: String,
    /// In this state
    #[arg(long, value_parser = state_of, value_name = "STATE")]
    state: Vec<LeaseState>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    asking: Asking,
    /// Its name, or its id
    lease: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct RenewArgs {
    #[command(flatten)]
    asking: Asking,
    /// Its name, or its id
    lease: String,
    /// For how long from now on
    #[arg(long, value_name = "SPAN", value_parser = parse_duration)]
    ttl: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub(super) struct RevokeArgs {
    #[command(flatten)]
    asking: Asking,
    /// Its name, or its id
    #[arg(required_unless_present_any = ["role", "owner"], conflicts_with_all = ["role", "owner"])]
    lease: Option<String>,
    /// All of this role, DATABASE/ROLE, or of all roles whose names begin so
    #[arg(long, value_name = "NAME")]
    role: Option<String>,
    /// All of this caller
    #[arg(long, value_name = "ID")]
    owner: Option<String>,
    /// See what would be revoked, and revoke nothing
    #[arg(long)]
    dry_run: bool,
    /// For the record: why
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    why: String,
}

pub(super) fn run(verb: &Verb) -> Result<ExitCode, Complaint> {
    block_on(async {
        match verb {
            Verb::List(args) => list(args).await,
            Verb::Show(args) => show(args).await,
            Verb::Renew(args) => renew(args).await,
            Verb::Revoke(args) => revoke(args).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn list(args: &ListArgs) -> Result<(), Complaint> {
    let filter = LeaseFilter {
        role_prefix: role_prefix(args.role.as_deref()),
        owner: args.owner.clone(),
        states: args.state.iter().map(|&state| state.into()).collect(),
    };
    let leases = all(&args.asking.connect().await?, filter).await?;
    let header = ["lease", "state", "ends", "role", "user", "owner", "error"];
    args.asking.tell_all(&leases, to_json, header, |lease| vec![row(lease)])
}

async fn all(broker: &Connection, filter: LeaseFilter) -> Result<Vec<Lease>, Complaint> {
    let mut request = ListLeasesRequest { page_size: 1000, filter: Some(filter), ..ListLeasesRequest::default() };
    let mut leases = Vec::new();
    loop {
        let page = broker.ask(request.clone()).await?;
        leases.extend(page.leases);
        if page.next_page_token.is_empty() {
            return Ok(leases);
        }
        request.page_token = page.next_page_token;
    }
}

async fn show(args: &ShowArgs) -> Result<(), Complaint> {
    let name = names::within("leases", &args.lease);
    // Left out, they would be those that still are to be revoked.
    let states = [LeaseState::Pending, LeaseState::Active, LeaseState::Revoking, LeaseState::Revoked];
    let filter = LeaseFilter { states: states.map(i32::from).to_vec(), ..LeaseFilter::default() };
    let leases = all(&args.asking.connect().await?, filter).await?;
    let lease = leases.iter().find(|lease| lease.name == name);
    tell(&args.asking, lease.ok_or_else(|| Failure::not_found(format!("there is no {name}, or it is not yours")))?)
}

async fn renew(args: &RenewArgs) -> Result<(), Complaint> {
    let request = RenewLeaseRequest {
        name: names::within("leases", &args.lease),
        ttl: args.ttl.and_then(|ttl| ttl.try_into().ok()),
        ..RenewLeaseRequest::default()
    };
    let broker = args.asking.connect().await?;
    tell(&args.asking, &broker.ask(request).await?.lease.unwrap_or_default())
}

async fn revoke(args: &RevokeArgs) -> Result<(), Complaint> {
    let target = match &args.lease {
        Some(lease) => Target::Name(names::within("leases", lease)),
        None => Target::Selector(LeaseSelector {
            role_prefix: role_prefix(args.role.as_deref()),
            owner: args.owner.clone().unwrap_or_default(),
        }),
    };
    let request = RevokeLeaseRequest {
        target: Some(target),
        validate_only: args.dry_run,
        justification: args.why.clone(),
        ..RevokeLeaseRequest::default()
    };
    let broker = args.asking.connect().await?;
    let answer = broker.ask(request).await?;
    match &answer.lease {
        Some(lease) => tell(&args.asking, lease),
        None => args.asking.tell(
            || json!({ "matched_count": answer.matched_count, "dry_run": args.dry_run }),
            || {
                let done = if args.dry_run { "would be revoked" } else { "are being revoked" };
                format!("{} leases {done}", answer.matched_count)
            },
        ),
    }
}

fn tell(asking: &Asking, lease: &Lease) -> Result<(), Complaint> {
    asking.tell(|| to_json(lease), || to_text(lease))
}

fn row(lease: &Lease) -> Vec<String> {
    vec![
        lease.name.clone(),
        state(lease),
        relative(lease.expire_time.as_ref()),
        lease.role.clone(),
        lease.user.clone(),
        lease.owner.clone(),
        lease.last_error.as_ref().map(told).unwrap_or_default(),
    ]
}

fn to_text(lease: &Lease) -> String {
    let mut lines = vec![
        ("role", lease.role.clone()),
        ("user", lease.user.clone()),
        ("owner", lease.owner.clone()),
        ("minted", relative(lease.create_time.as_ref())),
        ("ends", relative(lease.expire_time.as_ref())),
        ("ends for good", relative(lease.max_expire_time.as_ref())),
    ];
    if lease.revoke_cause() != LeaseRevokeCause::Unspecified {
        lines.push(("revoked for", cause(lease)));
    }
    if let Some(error) = &lease.last_error {
        let next = relative(lease.next_attempt_time.as_ref());
        lines.push(("error", format!("{}; {} attempts, the next {next}", told(error), lease.attempts)));
    }
    facts(&format!("{}  {}", lease.name, state(lease)), &lines)
}

pub(super) fn to_json(lease: &Lease) -> Value {
    json!({
        "name": lease.name,
        "state": state(lease),
        "role": lease.role,
        "user": lease.user,
        "owner": lease.owner,
        "create_time": lease.create_time.as_ref().and_then(time),
        "expire_time": lease.expire_time.as_ref().and_then(time),
        "max_expire_time": lease.max_expire_time.as_ref().and_then(time),
        "revoke_cause": Some(cause(lease)).filter(|_| lease.revoke_cause() != LeaseRevokeCause::Unspecified),
        "revoke_time": lease.revoke_time.as_ref().and_then(time),
        "attempts": lease.attempts,
        "last_error": lease.last_error.as_ref().map(|error| json!({ "reason": reason(error), "message": error.message })),
    })
}

fn role_prefix(role: Option<&str>) -> String {
    role.map(names::role).unwrap_or_default()
}

fn state(lease: &Lease) -> String {
    plain(lease.state().as_str_name(), "LEASE_STATE_")
}

fn cause(lease: &Lease) -> String {
    plain(lease.revoke_cause().as_str_name(), "LEASE_REVOKE_CAUSE_")
}

fn state_of(text: &str) -> Result<LeaseState, String> {
    let state = LeaseState::from_str_name(&format!("LEASE_STATE_{}", text.to_uppercase()));
    state.ok_or_else(|| "one of pending, active, revoking, revoked".to_owned())
}
