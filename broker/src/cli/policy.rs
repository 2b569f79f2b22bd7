//! `keyferry policy`

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::Value as Json;

use super::{Complaint, chain, say};
use crate::admission::{Action, Circumstances, DescribedCertificate, Description, Explanation, Policies, Resource};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::identity::SpiffeId;
use crate::names::{RoleName, SecretName, StoreName};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Validate all policies of a directory as the broker would
    Check(CheckArgs),
    /// Decide the cases of a file, and fail where one is not decided as it expects
    Test(TestArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The directory with the .cedar files
    directory: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct TestArgs {
    /// The cases (TOML)
    file: PathBuf,
    /// The directory with the .cedar files; without it, the file's own
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    case: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What the case claims, for people.
    name: String,
    /// `x509/…` or `oidc/…`.
    caller: String,
    #[serde(default)]
    claims: BTreeMap<String, Json>,
    certificate: Option<Certificate>,
    action: String,
    /// Empty: the broker itself.
    #[serde(default)]
    resource: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// RFC 3339; now where it is left out.
    time: Option<String>,
    peer: Option<IpAddr>,
    expect: Expectation,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificate {
    spiffe: Option<String>,
    #[serde(default)]
    dns: Vec<String>,
    common_name: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Expectation {
    Allow,
    Deny,
}

pub(super) fn run(verb: &Verb) -> Result<ExitCode, Complaint> {
    match verb {
        Verb::Check(args) => {
            let policies = load(&args.directory)?;
            say(&format!("{}: {} policies, good", args.directory.display(), policies.len()))?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Test(args) => test(args),
    }
}

fn load(directory: &Path) -> Result<Policies, Complaint> {
    Policies::load(directory).map_err(|error| chain(&error).into())
}

fn test(args: &TestArgs) -> Result<ExitCode, Complaint> {
    let text =
        std::fs::read_to_string(&args.file).map_err(|error| format!("cannot read {}: {error}", args.file.display()))?;
    let cases: Cases = toml::from_str(&text).map_err(|error| format!("{}: {error}", args.file.display()))?;
    let beside = match args.file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let policies = load(args.policies.as_deref().unwrap_or(beside))?;
    let mut failed = 0;
    for case in &cases.case {
        let explanation = case.explain(&policies).map_err(|error| format!("case {:?}: {error}", case.name))?;
        if explanation.allowed != (case.expect == Expectation::Allow) {
            failed += 1;
            say(&case.failure(&explanation))?;
        }
    }
    say(&format!("{} cases, {failed} failed", cases.case.len()))?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Case {
    fn explain(&self, policies: &Policies) -> Result<Explanation, String> {
        let certificate = self.certificate.as_ref().map(Certificate::described).transpose()?;
        let mut claims = self.claims.clone();
        if let Some((_, subject)) = self.caller.strip_prefix("oidc/").and_then(|rest| rest.split_once('/')) {
            claims.entry("sub".to_owned()).or_insert_with(|| subject.into());
        }
        let claims = serde_json::to_vec(&claims).map_err(|error| error.to_string())?;
        let who = Description::new(&self.caller, &claims, certificate).map_err(|error| format!("caller {error}"))?;
        let action = Action::ALL.into_iter().find(|action| action.as_str() == self.action);
        let action = action.ok_or_else(|| {
            let near = crate::suggestion::nearest(&self.action, Action::ALL.iter().map(|action| action.as_str()));
            let meant = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            format!("there is no action {:?}{meant}", self.action)
        })?;
        let circumstances = Circumstances {
            now: self.time.as_deref().map_or_else(|| Ok(SystemClock.now()), time)?,
            peer: self.peer.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        };
        policies.explain(&who.profile(), action, &self.resource()?, circumstances)
    }

    fn resource(&self) -> Result<Resource, String> {
        let bad = |error| format!("resource {:?} {error}", self.resource);
        match self.resource.as_str() {
            "" => Ok(Resource::Broker),
            name if name.contains("/secrets/") => {
                Ok(Resource::Secret(SecretName::parse(name).map_err(bad)?, self.labels.clone().into()))
            }
            name if name.starts_with("databases/") => RoleName::parse(name).map(Resource::DatabaseRole).map_err(bad),
            name => StoreName::parse(name).map(Resource::Store).map_err(bad),
        }
    }

    fn failure(&self, explanation: &Explanation) -> String {
        let decided = if explanation.allowed { "allowed" } else { "denied" };
        let mut lines = vec![format!("FAIL {}: {decided}", self.name)];
        for policy in &explanation.determining {
            let verb = if policy.forbids { "forbidden" } else { "permitted" };
            lines.push(format!("  {verb} by {} ({}:{})", policy.id, policy.file, policy.line));
        }
        for policy in explanation.considered.iter().filter(|policy| policy.forbids == explanation.allowed) {
            lines.push(format!("  {} ({}:{}) {}", policy.id, policy.file, policy.line, policy.unmet));
        }
        lines.join("\n")
    }
}

impl Certificate {
    fn described(&self) -> Result<DescribedCertificate, String> {
        let parse = |id: &String| SpiffeId::parse(id).map_err(|error| format!("certificate.spiffe: {error}"));
        Ok(DescribedCertificate {
            thumbprint: String::new(),
            common_name: self.common_name.clone(),
            dns_names: self.dns.clone(),
            spiffe: self.spiffe.as_ref().map(parse).transpose()?,
        })
    }
}

fn time(text: &str) -> Result<Timestamp, String> {
    let time: jiff::Timestamp = text.parse().map_err(|error| format!("time {text:?}: {error}"))?;
    u64::try_from(time.as_microsecond())
        .map(Timestamp::from_micros)
        .map_err(|_| format!("time {text:?} is before 1970"))
}
