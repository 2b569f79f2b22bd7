//! `keyferry whoami`

use std::process::ExitCode;

use keyferry_proto::v1::{Caller, WhoAmIRequest};
use serde_json::json;

use super::connection::{Server, block_on, refusal};
use super::{Complaint, say, time};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    server: Server,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Complaint> {
    let answer = block_on(async {
        let mut operator = args.server.connect().await?.operator();
        Ok(operator.who_am_i(WhoAmIRequest {}).await.map_err(refusal)?.into_inner())
    })?;
    let caller = answer.caller.unwrap_or_default();
    if args.json {
        say(&json!({ "caller": to_json(&caller), "policy_hash": answer.policy_hash }).to_string());
    } else {
        say(&to_text(&caller));
        say(&format!("  policies     {}", answer.policy_hash));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn to_text(caller: &Caller) -> String {
    let mut text = caller.id.clone();
    if let Some(certificate) = &caller.certificate {
        text.push_str(&format!("\n  certificate  {}", certificate.sha256_fingerprint));
    }
    if let Some(token) = &caller.token {
        text.push_str(&format!("\n  token        issuer {}, for {}", token.issuer, token.audiences.join(", ")));
        for (path, values) in token.claims.iter().flat_map(|claims| &claims.fields) {
            text.push_str(&format!("\n    {path} = {}", crate::rpc::json_of(values)));
        }
    }
    if let Some(end) = until(caller) {
        text.push_str(&format!("\n  until        {end}"));
    }
    // A claim may hold anything, and a terminal obeys what it is sent.
    text.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}")
}

pub(super) fn to_json(caller: &Caller) -> serde_json::Value {
    json!({
        "id": caller.id,
        "certificate": caller.certificate.as_ref().map(|certificate| json!({
            "subject": certificate.subject,
            "spiffe_id": certificate.spiffe_id,
            "dns_names": certificate.dns_names,
            "sha256_fingerprint": certificate.sha256_fingerprint,
        })),
        "token": caller.token.as_ref().map(|token| json!({
            "issuer": token.issuer,
            "subject": token.subject,
            "audiences": token.audiences,
            "claims": token.claims.as_ref().map(crate::rpc::json_of_struct),
        })),
        "expire_time": until(caller),
    })
}

fn until(caller: &Caller) -> Option<String> {
    time(caller.expire_time.as_ref()?)
}
