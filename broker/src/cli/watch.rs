//! `keyferry watch`

use std::process::ExitCode;

use keyferry_client::{Told, WatchOptions};
use keyferry_proto::v1::{RotationEvent, RotationSnapshotEntry};
use serde_json::{Value, json};

use super::connection::{Asking, block_on};
use super::failure::Failure;
use super::text::{label, plain, relative, shown, time};
use super::{Complaint, names, printable, say};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    asking: Asking,
    /// STORE/SECRET; or STORE/ or STORE/PREFIX* for all that begin so; all that you may see where nothing is named
    secrets: Vec<String>,
    /// Only secrets with this label; all that are given must hold
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Go on after what an earlier watch told: the cursor of its last line
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

/// Until it is interrupted, or refused for good.
pub(super) fn run(args: &Args) -> Result<ExitCode, Complaint> {
    block_on(async {
        let connection = args.asking.connect().await?;
        let mut watch = connection.client().watch(args.options());
        loop {
            let told = watch.next().await.map_err(Failure::from)?;
            let cursor = watch.cursor();
            match (told, args.asking.json) {
                (Told::Snapshot(entries), true) => {
                    let entries: Vec<_> = entries.iter().map(entry_json).collect();
                    say(&json!({ "kind": "snapshot", "secrets": entries, "cursor": cursor }).to_string())?;
                }
                (Told::Events(events), true) => {
                    events.iter().try_for_each(|event| say(&event_json(event, cursor).to_string()))?;
                }
                (Told::Snapshot(entries), false) => {
                    entries.iter().try_for_each(|entry| say(&printable(&entry_text(entry))))?;
                }
                (Told::Events(events), false) => {
                    events.iter().try_for_each(|event| say(&printable(&event_text(event))))?;
                }
            }
        }
    })
}

impl Args {
    fn options(&self) -> WatchOptions {
        let mut options = WatchOptions::default();
        for secret in &self.secrets {
            let (prefix, is_prefix) = match secret.strip_suffix('*') {
                Some(prefix) => (prefix, true),
                None => (secret.as_str(), secret.ends_with('/')),
            };
            options = match is_prefix {
                true if prefix.is_empty() => options.prefix("stores/"),
                true => options.prefix(names::secret(prefix)),
                false => options.secret(names::secret(secret)),
            };
        }
        if self.secrets.is_empty() {
            options = options.prefix("stores/");
        }
        for (key, value) in &self.labels {
            options = options.label(key, value);
        }
        match &self.cursor {
            Some(cursor) => options.resume(cursor),
            None => options,
        }
    }
}

fn entry_text(entry: &RotationSnapshotEntry) -> String {
    let version = version_id(&entry.version);
    let mut line = format!("{}  is at version {version}, {}", entry.secret, state(entry));
    if !entry.retiring_version.is_empty() {
        let until = relative(entry.retire_deadline_time.as_ref());
        line.push_str(&format!("; {} retires {until} at the latest", version_id(&entry.retiring_version)));
    }
    line
}

fn event_text(event: &RotationEvent) -> String {
    let mut line = format!("{}  {}  {}", shown(event.commit_time.as_ref()), event.secret, kind(event));
    if !event.version.is_empty() {
        line.push_str(&format!("  version {}", version_id(&event.version)));
    }
    if !event.rotation.is_empty() {
        line.push_str(&format!("  {}", event.rotation));
    }
    line
}

fn entry_json(entry: &RotationSnapshotEntry) -> Value {
    json!({
        "secret": entry.secret,
        "version": entry.version,
        "state": state(entry),
        "retiring_version": entry.retiring_version,
        "rotation": entry.rotation,
        "retire_deadline_time": entry.retire_deadline_time.as_ref().and_then(time),
        "revision": entry.revision,
    })
}

fn event_json(event: &RotationEvent, cursor: &str) -> Value {
    json!({
        "kind": kind(event),
        "secret": event.secret,
        "version": event.version,
        "previous_version": event.previous_version,
        "rotation": event.rotation,
        "source": plain(event.source().as_str_name(), "ROTATION_SOURCE_"),
        "event_time": event.event_time.as_ref().and_then(time),
        "commit_time": event.commit_time.as_ref().and_then(time),
        "retire_deadline_time": event.retire_deadline_time.as_ref().and_then(time),
        "epoch": event.epoch,
        "revision": event.revision,
        "cursor": cursor,
    })
}

fn version_id(version: &str) -> &str {
    version.rsplit('/').next().filter(|id| !id.is_empty()).unwrap_or("none")
}

fn state(entry: &RotationSnapshotEntry) -> String {
    plain(entry.version_state().as_str_name(), "SECRET_VERSION_STATE_")
}

fn kind(event: &RotationEvent) -> String {
    plain(event.kind().as_str_name(), "ROTATION_EVENT_KIND_")
}
