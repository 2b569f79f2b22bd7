//! `keyferry list`, `versions`, `enable` and `disable`: secrets without their values.

use std::process::ExitCode;

use keyferry_proto::v1::{
    DisableSecretVersionRequest, EnableSecretVersionRequest, ListSecretVersionsRequest, ListSecretsRequest, Secret,
    SecretFilter, SecretVersion,
};
use serde_json::{Value, json};

use super::connection::{Asking, block_on};
use super::text::{label, labels, plain, relative, time};
use super::{Complaint, names};

const PAGE: i32 = 1000;

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    asking: Asking,
    /// The store
    store: String,
    /// Only secrets whose id begins so
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only secrets with this label; all that are given must hold
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

#[derive(Debug, clap::Args)]
pub(super) struct VersionsArgs {
    #[command(flatten)]
    asking: Asking,
    /// STORE/SECRET, or its whole name
    secret: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct VersionArgs {
    #[command(flatten)]
    asking: Asking,
    /// STORE/SECRET@VERSION, or its whole name
    version: String,
    /// See whether it would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn list(args: &ListArgs) -> Result<ExitCode, Complaint> {
    let secrets = block_on(async {
        let broker = args.asking.connect().await?;
        let filter = SecretFilter { prefix: args.prefix.clone(), labels: args.labels.iter().cloned().collect() };
        let mut request = ListSecretsRequest {
            parent: names::within("stores", &args.store),
            page_size: PAGE,
            filter: Some(filter),
            ..ListSecretsRequest::default()
        };
        let mut secrets = Vec::new();
        loop {
            let page = broker.ask(request.clone()).await?;
            secrets.extend(page.secrets);
            if page.next_page_token.is_empty() {
                return Ok::<_, Complaint>(secrets);
            }
            request.page_token = page.next_page_token;
        }
    })?;
    let row = |secret: &Secret| {
        vec![vec![
            secret.name.clone(),
            relative(secret.update_time.as_ref().or(secret.create_time.as_ref())),
            labels(&secret.labels),
        ]]
    };
    args.asking.tell_all(&secrets, secret_json, ["secret", "changed", "labels"], row)?;
    Ok(ExitCode::SUCCESS)
}

fn secret_json(secret: &Secret) -> Value {
    json!({
        "name": secret.name,
        "labels": secret.labels,
        "create_time": secret.create_time.as_ref().and_then(time),
        "update_time": secret.update_time.as_ref().and_then(time),
        "expire_time": secret.expire_time.as_ref().and_then(time),
    })
}

pub(super) fn versions(args: &VersionsArgs) -> Result<ExitCode, Complaint> {
    let versions = block_on(async {
        let broker = args.asking.connect().await?;
        let parent = names::secret(&args.secret);
        let mut request = ListSecretVersionsRequest { parent, page_size: PAGE, ..ListSecretVersionsRequest::default() };
        let mut versions = Vec::new();
        loop {
            let page = broker.ask(request.clone()).await?;
            versions.extend(page.versions);
            if page.next_page_token.is_empty() {
                return Ok::<_, Complaint>(versions);
            }
            request.page_token = page.next_page_token;
        }
    })?;
    args.asking.tell_all(&versions, version_json, ["version", "state", "added", ""], |version| vec![row(version)])?;
    Ok(ExitCode::SUCCESS)
}

fn row(version: &SecretVersion) -> Vec<String> {
    let latest = if version.latest { "latest" } else { "" };
    let added = relative(version.create_time.as_ref());
    vec![version.name.clone(), state(version), added, latest.to_owned()]
}

fn version_json(version: &SecretVersion) -> Value {
    json!({
        "name": version.name,
        "state": state(version),
        "latest": version.latest,
        "create_time": version.create_time.as_ref().and_then(time),
        "not_before_time": version.not_before_time.as_ref().and_then(time),
        "expire_time": version.expire_time.as_ref().and_then(time),
    })
}

fn state(version: &SecretVersion) -> String {
    plain(version.state().as_str_name(), "SECRET_VERSION_STATE_")
}

pub(super) fn enable(args: &VersionArgs) -> Result<ExitCode, Complaint> {
    let version = block_on(async {
        let request = EnableSecretVersionRequest {
            name: names::secret(&args.version),
            validate_only: args.dry_run,
            ..EnableSecretVersionRequest::default()
        };
        let broker = args.asking.connect().await?;
        Ok(broker.ask(request).await?.version)
    })?;
    changed(args, &version.unwrap_or_default(), "enabled")
}

pub(super) fn disable(args: &VersionArgs) -> Result<ExitCode, Complaint> {
    let version = block_on(async {
        let request = DisableSecretVersionRequest {
            name: names::secret(&args.version),
            validate_only: args.dry_run,
            ..DisableSecretVersionRequest::default()
        };
        let broker = args.asking.connect().await?;
        Ok(broker.ask(request).await?.version)
    })?;
    changed(args, &version.unwrap_or_default(), "disabled")
}

fn changed(args: &VersionArgs, version: &SecretVersion, now: &str) -> Result<ExitCode, Complaint> {
    let be = if args.dry_run { "would be" } else { "is" };
    args.asking.tell(|| version_json(version), || format!("{} {be} {now}", version.name))?;
    Ok(ExitCode::SUCCESS)
}
