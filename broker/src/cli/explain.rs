//! `keyferry explain`

use std::path::PathBuf;
use std::process::ExitCode;

use keyferry_proto::v1::explain_access_request::Subject;
use keyferry_proto::v1::{
    AccessDecision, AccessFinding, AccessStage, CallerCertificate, DescribedCaller, ErrorReason, ExaminedToken,
    ExplainAccessRequest, ExplainAccessResponse, PolicyReference,
};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::json;

use super::connection::{Asking, block_on, read_token};
use super::failure::Exit;
use super::{Complaint, whoami};
use crate::status::ReasonExt as _;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    asking: Asking,
    /// The action, for example GetSecret
    #[arg(long)]
    action: String,
    /// The resource, for example stores/prod/secrets/db-password; left out, the broker itself
    #[arg(long, default_value = "", hide_default_value = true)]
    resource: String,
    /// Ask for whoever presents the token in this file
    #[arg(long, value_name = "FILE", conflicts_with = "caller")]
    token_file: Option<PathBuf>,
    /// Ask for this caller: x509/{SPIFFE id or name} or oidc/{issuer}/{subject}
    #[arg(long, value_name = "ID")]
    caller: Option<String>,
    /// A claim of that caller's token, once for each value; a member of an object is named by its path, a/b
    #[arg(long = "claim", value_name = "NAME=VALUE", requires = "caller")]
    claims: Vec<String>,
    /// The SPIFFE id of the certificate that the other caller would present beside its token
    #[arg(long, value_name = "ID")]
    certificate_spiffe_id: Option<String>,
    /// A DNS name of that certificate
    #[arg(long, value_name = "NAME")]
    certificate_dns_name: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Complaint> {
    let question = args.question()?;
    let answer = block_on(async {
        let broker = args.asking.connect().await?;
        broker.ask(question).await
    })?;
    args.asking.tell(|| to_json(&answer), || to_text(&answer, &args.action, &args.resource))?;
    let allowed = answer.decision() == AccessDecision::Allow;
    Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::from(Exit::Denied as u8) })
}

impl Args {
    fn question(&self) -> Result<ExplainAccessRequest, Complaint> {
        let subject = match (&self.caller, &self.token_file) {
            (None, None) if self.certificate().is_some() => {
                return Err("a certificate is described, but nobody whose it is; add --caller or --token-file".into());
            }
            (None, None) => None,
            (None, Some(file)) => Some(Subject::ExaminedToken(ExaminedToken {
                token: read_token(file)?,
                certificate: self.certificate(),
            })),
            (Some(id), _) => Some(Subject::DescribedCaller(DescribedCaller {
                id: id.clone(),
                claims: Some(claims(&self.claims)?),
                certificate: self.certificate(),
            })),
        };
        Ok(ExplainAccessRequest { subject, action: self.action.clone(), resource: self.resource.clone() })
    }

    fn certificate(&self) -> Option<CallerCertificate> {
        if self.certificate_spiffe_id.is_none() && self.certificate_dns_name.is_empty() {
            return None;
        }
        Some(CallerCertificate {
            spiffe_id: self.certificate_spiffe_id.clone().unwrap_or_default(),
            dns_names: self.certificate_dns_name.clone(),
            ..CallerCertificate::default()
        })
    }
}

/// `a/b=c` is the member `b` of the object `a`; what is said twice is a list.
fn claims(given: &[String]) -> Result<Struct, Complaint> {
    let mut claims = Struct::default();
    for claim in given {
        let (path, value) =
            claim.split_once('=').ok_or_else(|| format!("--claim {claim} has no value; write NAME=VALUE"))?;
        let names: Vec<_> = path.split('/').map(|name| name.replace("~1", "/").replace("~0", "~")).collect();
        insert(&mut claims, &names, value)
            .ok_or_else(|| format!("--claim {claim} is a value and an object at once"))?;
    }
    Ok(claims)
}

fn insert(claims: &mut Struct, path: &[String], value: &str) -> Option<()> {
    let (name, rest) = path.split_first()?;
    let entry = claims.fields.entry(name.clone()).or_default();
    if rest.is_empty() {
        let list = entry.kind.get_or_insert_with(|| Kind::ListValue(ListValue::default()));
        let Kind::ListValue(list) = list else { return None };
        list.values.push(Value { kind: Some(Kind::StringValue(value.to_owned())) });
        return Some(());
    }
    let object = entry.kind.get_or_insert_with(|| Kind::StructValue(Struct::default()));
    let Kind::StructValue(object) = object else { return None };
    insert(object, rest, value)
}

fn to_text(answer: &ExplainAccessResponse, action: &str, resource: &str) -> String {
    let resource = if resource.is_empty() { "the broker" } else { resource };
    let verdict = match answer.decision() {
        AccessDecision::Allow => "allowed".to_owned(),
        AccessDecision::Deny | AccessDecision::Unspecified => format!("denied, {}", answer.reason().name()),
    };
    let mut lines = vec![format!("{verdict}: {action} on {resource}")];
    lines.extend(answer.caller.as_ref().map(|caller| format!("caller: {}", caller.id)));
    lines.push(String::new());
    for finding in &answer.findings {
        let mark = if finding.passed { "ok  " } else { "FAIL" };
        let mut line = format!("  {mark}  {:<11} {}", stage(finding), finding.subject);
        if !finding.actual.is_empty() {
            line.push_str(&format!(" = {}", finding.actual));
        }
        lines.push(line);
        if !finding.passed && !finding.expected.is_empty() {
            lines.push(format!("        expected {}", finding.expected));
        }
        lines.push(format!("        {}", finding.message));
    }
    for (title, policies) in
        [("decided by", &answer.determining_policies), ("did not apply", &answer.considered_policies)]
    {
        if !policies.is_empty() {
            lines.push(format!("\n{title}:"));
        }
        for policy in policies {
            lines.push(format!("  {}", named(policy)));
            if !policy.unmet.is_empty() {
                lines.push(format!("        {}", policy.unmet));
            }
        }
    }
    lines.join("\n")
}

fn named(policy: &PolicyReference) -> String {
    let place = if policy.file.is_empty() { String::new() } else { format!("  {}:{}", policy.file, policy.line) };
    let about = if policy.description.is_empty() { String::new() } else { format!("  {}", policy.description) };
    format!("{} ({}){place}{about}", policy.policy_id, effect(policy))
}

fn effect(policy: &PolicyReference) -> String {
    policy.effect().as_str_name().trim_start_matches("POLICY_EFFECT_").to_ascii_lowercase()
}

fn stage(finding: &AccessFinding) -> String {
    let stage: AccessStage = finding.stage();
    stage.as_str_name().trim_start_matches("ACCESS_STAGE_").to_ascii_lowercase()
}

fn to_json(answer: &ExplainAccessResponse) -> serde_json::Value {
    let policy = |policy: &PolicyReference| {
        json!({
            "id": policy.policy_id, "file": policy.file, "line": policy.line, "effect": effect(policy),
            "description": policy.description, "unmet": policy.unmet,
        })
    };
    let finding = |finding: &AccessFinding| {
        json!({
            "stage": stage(finding), "passed": finding.passed, "subject": finding.subject,
            "expected": finding.expected, "actual": finding.actual, "message": finding.message,
        })
    };
    let allowed = answer.decision() == AccessDecision::Allow;
    let reason = (answer.reason() != ErrorReason::Unspecified).then(|| answer.reason().name());
    json!({
        "decision": if allowed { "allow" } else { "deny" },
        "reason": reason,
        "caller": answer.caller.as_ref().map(whoami::to_json),
        "determining_policies": answer.determining_policies.iter().map(policy).collect::<Vec<_>>(),
        "considered_policies": answer.considered_policies.iter().map(policy).collect::<Vec<_>>(),
        "findings": answer.findings.iter().map(finding).collect::<Vec<_>>(),
        "policy_hash": answer.policy_hash,
    })
}
