//! `keyferry subscribers`

use std::process::ExitCode;

use keyferry_proto::v1::{ListSubscribersRequest, Subscriber, SubscriberKind, SubscriberVersion};
use serde_json::{Value, json};

use super::connection::{Asking, block_on};
use super::text::{plain, relative, span, time};
use super::{Complaint, names};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    asking: Asking,
    /// Of this secret only
    #[arg(long, value_name = "STORE/SECRET", default_value = "", hide_default_value = true)]
    secret: String,
    /// Only those that do not run the current version of something
    #[arg(long)]
    behind: bool,
    /// Only those with a stream open
    #[arg(long)]
    connected: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Complaint> {
    let subscribers = block_on(async {
        let broker = args.asking.connect().await?;
        let mut request = ListSubscribersRequest {
            page_size: 1000,
            secret: names::secret(&args.secret),
            behind_only: args.behind,
            connected_only: args.connected,
            ..ListSubscribersRequest::default()
        };
        let mut subscribers = Vec::new();
        loop {
            let page = broker.ask(request.clone()).await?;
            subscribers.extend(page.subscribers);
            if page.next_page_token.is_empty() {
                return Ok::<_, Complaint>(subscribers);
            }
            request.page_token = page.next_page_token;
        }
    })?;
    let header = ["caller", "subscriber", "stream", "secret", "runs", "since", "behind"];
    args.asking.tell_all(&subscribers, to_json, header, rows)?;
    Ok(ExitCode::SUCCESS)
}

/// One line for each version that somebody runs.
fn rows(subscriber: &Subscriber) -> Vec<Vec<String>> {
    let who = [subscriber.caller.clone(), subscriber.subscriber.clone(), stream(subscriber)];
    let row = |more: &[String]| [who.as_slice(), more].concat();
    let mut rows: Vec<_> = subscriber.versions.iter().map(|version| row(&of_version(version))).collect();
    if rows.is_empty() {
        rows.push(row(&["none known".to_owned()]));
    }
    if subscriber.versions_omitted_count > 0 {
        rows.push(row(&[format!("and {} more", subscriber.versions_omitted_count)]));
    }
    rows
}

fn stream(subscriber: &Subscriber) -> String {
    if subscriber.connected {
        format!("{} at {}", kind(subscriber), subscriber.node)
    } else if subscriber.kind() == SubscriberKind::ApiManagement {
        // The broker goes there, when there is something new.
        kind(subscriber)
    } else {
        format!("last seen {}", relative(subscriber.last_seen_time.as_ref()))
    }
}

fn of_version(version: &SubscriberVersion) -> [String; 4] {
    let id = version.version.rsplit('/').next().filter(|id| !id.is_empty()).unwrap_or("none yet");
    let mut behind = match &version.lag {
        None => "no".to_owned(),
        Some(lag) => {
            let current = version.current_version.rsplit('/').next().unwrap_or_default();
            format!("for {} (current: {current})", span(lag))
        }
    };
    if !version.rejection.is_empty() {
        behind.push_str(&format!("; refused: {}", version.rejection));
    }
    [version.secret.clone(), id.to_owned(), relative(version.acknowledge_time.as_ref()), behind]
}

fn kind(subscriber: &Subscriber) -> String {
    plain(subscriber.kind().as_str_name(), "SUBSCRIBER_KIND_")
}

fn to_json(subscriber: &Subscriber) -> Value {
    let at = |at: Option<&prost_types::Timestamp>| at.and_then(time);
    json!({
        "caller": subscriber.caller,
        "subscriber": subscriber.subscriber,
        "kind": kind(subscriber),
        "connected": subscriber.connected,
        "node": subscriber.node,
        "connect_time": at(subscriber.connect_time.as_ref()),
        "last_seen_time": at(subscriber.last_seen_time.as_ref()),
        "revision": subscriber.revision,
        "lag_revisions": subscriber.lag_revisions,
        "versions": subscriber.versions.iter().map(|version| json!({
            "secret": version.secret,
            "version": version.version,
            "acknowledge_time": at(version.acknowledge_time.as_ref()),
            "current_version": version.current_version,
            "lag_seconds": version.lag.as_ref().map(|lag| lag.seconds),
            "rejection": version.rejection,
        })).collect::<Vec<_>>(),
        "versions_omitted_count": subscriber.versions_omitted_count,
    })
}
