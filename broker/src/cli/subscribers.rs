//! `keyferry subscribers`

use std::process::ExitCode;

use keyferry_proto::v1::{ListSubscribersRequest, Subscriber, SubscriberVersion};
use serde_json::{Value, json};

use super::connection::{Server, block_on, refusal};
use super::text::{plain, shown, span, table};
use super::{Complaint, printable, say, time};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    server: Server,
    /// Of this secret only
    #[arg(long, value_name = "SECRET", default_value = "", hide_default_value = true)]
    secret: String,
    /// Only those that do not run the current version of something
    #[arg(long)]
    behind: bool,
    /// Only those with a stream open
    #[arg(long)]
    connected: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Complaint> {
    let subscribers = block_on(async {
        let mut client = args.server.connect().await?.rotations();
        let mut request = ListSubscribersRequest {
            page_size: 1000,
            secret: args.secret.clone(),
            behind_only: args.behind,
            connected_only: args.connected,
            ..ListSubscribersRequest::default()
        };
        let mut subscribers = Vec::new();
        loop {
            let page = client.list_subscribers(request.clone()).await.map_err(refusal)?.into_inner();
            subscribers.extend(page.subscribers);
            if page.next_page_token.is_empty() {
                return Ok::<_, Complaint>(subscribers);
            }
            request.page_token = page.next_page_token;
        }
    })?;
    if args.json {
        say(&subscribers.iter().map(to_json).collect::<Value>().to_string());
    } else {
        say(&printable(&to_text(&subscribers)));
    }
    Ok(ExitCode::SUCCESS)
}

/// One line for each version that somebody runs.
fn to_text(subscribers: &[Subscriber]) -> String {
    if subscribers.is_empty() {
        return "none".to_owned();
    }
    let header = ["caller", "subscriber", "stream", "secret", "runs", "since", "behind"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for subscriber in subscribers {
        let who = [subscriber.caller.clone(), subscriber.subscriber.clone(), stream(subscriber)];
        if subscriber.versions.is_empty() {
            rows.push([who.as_slice(), &["none known".to_owned()]].concat());
        }
        rows.extend(subscriber.versions.iter().map(|version| [who.as_slice(), &of_version(version)].concat()));
        if subscriber.versions_omitted_count > 0 {
            let more = format!("and {} more", subscriber.versions_omitted_count);
            rows.push([who.as_slice(), &[more]].concat());
        }
    }
    table(&rows).join("\n")
}

fn stream(subscriber: &Subscriber) -> String {
    if subscriber.connected {
        format!("{} at {}", kind(subscriber), subscriber.node)
    } else {
        format!("gone since {}", shown(subscriber.last_seen_time.as_ref()))
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
    [version.secret.clone(), id.to_owned(), shown(version.acknowledge_time.as_ref()), behind]
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
