//! `keyferry get`

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use keyferry_client::{Read, ReadSource, Secret};
use serde_json::{Value, json};

use super::connection::{Asking, block_on};
use super::failure::Failure;
use super::text::{facts, payload_json, plain, relative, time, wire};
use super::{Complaint, hand_over, names, printable, say, say_error};
use crate::config::parse_duration;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    asking: Asking,
    /// STORE/SECRET or STORE/SECRET@VERSION, or a whole name
    secret: String,
    /// Nothing that the broker loaded longer ago; 0s asks the store itself
    #[arg(long, value_name = "SPAN", value_parser = parse_duration)]
    max_age: Option<Duration>,
    /// Show the value though it goes to a terminal
    #[arg(long)]
    reveal: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Complaint> {
    let secret = block_on(async {
        let mut read = Read::of(names::secret(&args.secret));
        if let Some(age) = args.max_age {
            read = read.max_age(age);
        }
        let connection = args.asking.connect().await?;
        Ok(connection.client().get_secret(read).await.map_err(Failure::from)?)
    })?;
    let terminal = std::io::stdout().is_terminal();
    let hidden = terminal && !args.reveal;
    if args.asking.json {
        say(&to_json(&secret, hidden).to_string())?;
    } else if hidden {
        say(&printable(&to_text(&secret)))?;
    } else if terminal {
        let text = std::str::from_utf8(&secret.payload).map_err(|_| "the value is no text: pipe it, or add --json")?;
        say(&printable(text))?;
    } else {
        hand_over(&secret.payload)?;
    }
    if hidden {
        say_error("the value stays off the terminal: add --reveal, or pipe it");
    }
    Ok(ExitCode::SUCCESS)
}

fn to_text(secret: &Secret) -> String {
    let mut lines = vec![("size", format!("{} bytes", secret.payload.len()))];
    let loaded = relative(secret.load_time.and_then(wire).as_ref());
    lines.push(("loaded", format!("{loaded}, from {}", source(secret))));
    if let Some(end) = secret.expire_time.and_then(wire) {
        lines.push(("expires", relative(Some(&end))));
    }
    facts(&format!("{}/versions/{}", secret.name, secret.version), &lines)
}

fn to_json(secret: &Secret, hidden: bool) -> Value {
    let at = |at: Option<std::time::SystemTime>| at.and_then(wire).as_ref().and_then(time);
    let (payload, payload_base64) = if hidden { (None, None) } else { payload_json(&secret.payload) };
    json!({
        "name": format!("{}/versions/{}", secret.name, secret.version),
        "payload": payload,
        "payload_base64": payload_base64,
        "size": secret.payload.len(),
        "content_type": secret.content_type,
        "source": source(secret),
        "load_time": at(secret.load_time),
        "fresh_until_time": at(secret.fresh_until_time),
        "create_time": at(secret.create_time),
        "expire_time": at(secret.expire_time),
        "epoch": secret.epoch,
        "revision": secret.revision,
    })
}

fn source(secret: &Secret) -> String {
    plain(ReadSource::as_str_name(&secret.source), "READ_SOURCE_")
}
