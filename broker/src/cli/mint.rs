//! `keyferry mint` and `keyferry roles`

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use keyferry_proto::v1::mint_database_token_response::Credential;
use keyferry_proto::v1::revoke_lease_request::Target;
use keyferry_proto::v1::{
    DatabaseConnection, DatabaseEngine, DatabaseRole, ListDatabaseRolesRequest, MintDatabaseTokenRequest,
    MintDatabaseTokenResponse, RevokeLeaseRequest,
};
use serde_json::{Value, json};

use super::connection::{Asking, Connection, block_on};
use super::failure::Failure;
use super::text::{facts, plain, relative, span, time};
use super::{Complaint, hand_over, leases, names, printable, psql, say, say_error};
use crate::config::parse_duration;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    asking: Asking,
    /// DATABASE/ROLE, or its whole name
    role: String,
    /// For how long
    #[arg(long, value_name = "SPAN", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Open psql with the credential, and revoke it when psql ends
    #[arg(long, conflicts_with_all = ["reveal", "json"])]
    psql: bool,
    /// Show the credential though it goes to a terminal
    #[arg(long)]
    reveal: bool,
    /// Passed on to psql
    #[arg(last = true, value_name = "PSQL ARGUMENT", requires = "psql")]
    arguments: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct RolesArgs {
    #[command(flatten)]
    asking: Asking,
    /// Of this database
    #[arg(default_value = "-", hide_default_value = true)]
    database: String,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Complaint> {
    // Before there is a user that nobody could log in as.
    if std::io::stdout().is_terminal() && !args.reveal && !args.psql {
        let words = "the credential would stay off the terminal; add --reveal, pipe it, or use --psql";
        return Err(Failure::usage(words).into());
    }
    block_on(async {
        let broker = args.asking.connect().await?;
        let request = MintDatabaseTokenRequest {
            name: names::role(&args.role),
            ttl: args.ttl.and_then(|ttl| ttl.try_into().ok()),
            ..MintDatabaseTokenRequest::default()
        };
        let minted = broker.ask(request).await?;
        if args.psql {
            return psql::run(&broker, &minted, &args.arguments).await;
        }
        if let Err(lost) = tell(args, &minted) {
            give_back(&broker, &minted, "nobody received it").await;
            return Err(lost);
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn tell(args: &Args, minted: &MintDatabaseTokenResponse) -> Result<(), Complaint> {
    if args.asking.json {
        say(&to_json(minted).to_string())
    } else if std::io::stdout().is_terminal() {
        say(&printable(&to_text(minted)))
    } else {
        hand_over(bare(minted).as_bytes())
    }
}

/// What nobody uses any more is revoked, where it can be.
pub(super) async fn give_back(broker: &Connection, minted: &MintDatabaseTokenResponse, why: &str) {
    let Some(lease) = &minted.lease else { return };
    let request = RevokeLeaseRequest {
        target: Some(Target::Name(lease.name.clone())),
        justification: why.to_owned(),
        ..RevokeLeaseRequest::default()
    };
    if let Err(error) = broker.ask(request).await {
        say_error(&format!("{} is not revoked and ends by itself: {error}", lease.name));
    }
}

/// The credential alone, for whatever reads a pipe.
fn bare(minted: &MintDatabaseTokenResponse) -> String {
    match &minted.credential {
        Some(Credential::Password(password)) => password.password.clone(),
        Some(Credential::AccessToken(token)) => token.access_token.clone(),
        Some(Credential::Certificate(pair)) => format!("{}{}", pair.certificate_chain_pem, pair.private_key_pem),
        None => String::new(),
    }
}

fn to_text(minted: &MintDatabaseTokenResponse) -> String {
    let connection = minted.connection.clone().unwrap_or_default();
    let mut lines = vec![("database", place(&connection)), ("ends", relative(minted.expire_time.as_ref()))];
    match &minted.lease {
        Some(lease) => lines.push(("lease", lease.name.clone())),
        None => lines.push(("lease", "none: it ends by itself".to_owned())),
    }
    lines.push((kind(minted), bare(minted)));
    facts(&minted.user, &lines)
}

fn place(connection: &DatabaseConnection) -> String {
    let engine = plain(connection.engine().as_str_name(), "DATABASE_ENGINE_");
    if connection.engine() == DatabaseEngine::Spanner {
        return format!("{engine}, {}", connection.database);
    }
    let DatabaseConnection { host, port, database, .. } = connection;
    format!("{engine}, {host}:{port}/{database}")
}

fn kind(minted: &MintDatabaseTokenResponse) -> &'static str {
    match &minted.credential {
        Some(Credential::Password(_)) => "password",
        Some(Credential::Certificate(_)) => "certificate",
        Some(Credential::AccessToken(_)) => "access_token",
        None => "none",
    }
}

fn to_json(minted: &MintDatabaseTokenResponse) -> Value {
    let credential = minted.credential.as_ref().map(|credential| match credential {
        Credential::Password(password) => json!({ "password": password.password }),
        Credential::Certificate(pair) => {
            json!({ "certificate_chain_pem": pair.certificate_chain_pem, "private_key_pem": pair.private_key_pem })
        }
        Credential::AccessToken(token) => json!({
            "access_token": token.access_token,
            "usage": plain(token.usage().as_str_name(), "ACCESS_TOKEN_USAGE_"),
        }),
    });
    let connection = minted.connection.clone().unwrap_or_default();
    json!({
        "user": minted.user,
        "kind": kind(minted),
        "credential": credential,
        "connection": {
            "engine": plain(connection.engine().as_str_name(), "DATABASE_ENGINE_"),
            "host": connection.host,
            "port": connection.port,
            "database": connection.database,
            "ca_pem": connection.ca_pem,
            "tls_server_name": connection.tls_server_name,
            "instance": connection.instance,
            "parameters": connection.parameters,
        },
        "expire_time": minted.expire_time.as_ref().and_then(time),
        "lease": minted.lease.as_ref().map(leases::to_json),
    })
}

pub(super) fn roles(args: &RolesArgs) -> Result<ExitCode, Complaint> {
    let roles = block_on(async {
        let broker = args.asking.connect().await?;
        let parent = names::within("databases", &args.database);
        let mut request = ListDatabaseRolesRequest { parent, page_size: 1000, ..ListDatabaseRolesRequest::default() };
        let mut roles = Vec::new();
        loop {
            let page = broker.ask(request.clone()).await?;
            roles.extend(page.roles);
            if page.next_page_token.is_empty() {
                return Ok::<_, Complaint>(roles);
            }
            request.page_token = page.next_page_token;
        }
    })?;
    let header = ["role", "credential", "lives", "at most", "revocable", "description"];
    args.asking.tell_all(&roles, role_json, header, |role| vec![row(role)])?;
    Ok(ExitCode::SUCCESS)
}

fn row(role: &DatabaseRole) -> Vec<String> {
    let shown = |ttl: Option<&prost_types::Duration>| ttl.map(span).unwrap_or_default();
    vec![
        role.name.clone(),
        credential(role),
        shown(role.default_ttl.as_ref()),
        shown(role.max_ttl.as_ref()),
        if role.revocable { "yes" } else { "no" }.to_owned(),
        role.description.clone(),
    ]
}

fn role_json(role: &DatabaseRole) -> Value {
    let seconds = |ttl: Option<&prost_types::Duration>| ttl.map(|ttl| ttl.seconds);
    json!({
        "name": role.name,
        "description": role.description,
        "kind": plain(role.kind().as_str_name(), "DATABASE_KIND_"),
        "credential_kind": credential(role),
        "database": role.database,
        "default_ttl_seconds": seconds(role.default_ttl.as_ref()),
        "max_ttl_seconds": seconds(role.max_ttl.as_ref()),
        "max_lifetime_seconds": seconds(role.max_lifetime.as_ref()),
        "revocable": role.revocable,
        "renewable": role.renewable,
        "accepts_public_key": role.accepts_public_key,
    })
}

fn credential(role: &DatabaseRole) -> String {
    plain(role.credential_kind().as_str_name(), "CREDENTIAL_KIND_")
}
