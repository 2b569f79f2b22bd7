//! `AcknowledgeRotation` and `ListSubscribers`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use keyferry_proto::v1::{
    AcknowledgeRotationRequest, AcknowledgeRotationResponse, ListSubscribersRequest, ListSubscribersResponse,
    Subscriber as SubscriberMessage, SubscriberKind, SubscriberVersion,
};

use super::call::Call;
use super::page_token::{Binding, PageTokens, page_size};
use super::proto_time::timestamp;
use super::secret_access::{Wanted, ask};
use super::secret_messages::bad_name;
use super::watch::subscriber_name;
use super::watch_messages::{revision, version_name};
use crate::admission::{Action, Resource};
use crate::audit::{Decision, Item};
use crate::clock::Timestamp;
use crate::error::{Failure, Reason};
use crate::names::{SecretName, VersionId, VersionName};
use crate::rotation::Standing;
use crate::rotation::subscribers::{Place, Runs, Seen, SubscriberName, Way};
use crate::rotation::watch::{Filter, Viewer, Watches};
use crate::secrets::Labels;
use crate::state::{ListPage, Revision};
use crate::status::ReasonExt as _;

const MAX_VERSIONS: usize = 100;
const MAX_REJECTION: usize = 256;
/// Subscribers looked at for one page, when most of them are not for the caller.
const MAX_LOOKED_AT: usize = 5000;
/// Secrets by which somebody is known who has watched by prefix and acknowledged nothing.
const SAMPLE: usize = 200;

pub(super) async fn acknowledge(
    watches: &Watches,
    call: Call,
    message: AcknowledgeRotationRequest,
) -> Result<AcknowledgeRotationResponse, Failure> {
    let name = subscriber_name(&message.subscriber)?;
    if message.rejection.chars().count() > MAX_REJECTION {
        let description = format!("is longer than {MAX_REJECTION} characters; shorten it");
        return Err(Failure::bad_field(Reason::InvalidArgument, "rejection", description));
    }
    let versions = parse(&message.versions)?;
    for (secret, version) in &versions {
        exists(watches, &call, secret, version).await?;
    }
    let names: Vec<String> = versions.iter().map(|(secret, _)| secret.to_string()).collect();
    let filter = Filter::new(&names, Vec::new(), BTreeMap::new())
        .map_err(|error| Failure::bad_field(Reason::InvalidArgument, "versions", error.to_string()))?;
    let viewer = Viewer::new(watches.sight().clone(), call.caller.clone(), call.peer.ip(), filter);
    let subscriber = watches.subscribers().acknowledge(&viewer, &name, &versions, &message.rejection).await?;
    let mut versions_now = Vec::with_capacity(versions.len());
    for (secret, _) in &versions {
        let standing = watches.log().standing(secret).await?.map(|stored| stored.record);
        versions_now.push(version(secret, subscriber.runs.get(secret), standing.as_ref(), call.clock.now()));
    }
    Ok(AcknowledgeRotationResponse { versions: versions_now })
}

fn parse(versions: &[String]) -> Result<Vec<(SecretName, Arc<str>)>, Failure> {
    if !(1..=MAX_VERSIONS).contains(&versions.len()) {
        let description = format!("has {} entries; send 1 to {MAX_VERSIONS}", versions.len());
        return Err(Failure::bad_field(Reason::InvalidArgument, "versions", description));
    }
    let mut parsed: Vec<(SecretName, Arc<str>)> = Vec::with_capacity(versions.len());
    for version in versions {
        let VersionName { secret, version } = VersionName::parse(version).map_err(bad_name("versions"))?;
        let VersionId::Exact(id) = version else {
            let description = "ends in \"latest\", which may mean another version by now; name the version by its id";
            return Err(Failure::bad_field(Reason::InvalidName, "versions", description));
        };
        if parsed.iter().any(|(other, _)| *other == secret) {
            let description = format!("names {secret} twice; a subscriber runs one version of a secret");
            return Err(Failure::bad_field(Reason::InvalidArgument, "versions", description));
        }
        parsed.push((secret, id));
    }
    Ok(parsed)
}

/// The caller may watch the secret, and it has the version. The store is asked only where the log does not know.
async fn exists(watches: &Watches, call: &Call, secret: &SecretName, version: &Arc<str>) -> Result<(), Failure> {
    let secrets = &watches.sight().secrets;
    let wrong = secrets.check_version(secret, &VersionId::Exact(Arc::clone(version)));
    let asked = ask(secrets, call, Action::WatchRotations, Wanted { secret, wrong, creation: None }).await;
    let found = match asked {
        Err(refused) => {
            let decision = if refused.allowed == Some(false) { Decision::Deny } else { Decision::Allow };
            (decision, Some(refused.policy), Err(refused.failure))
        }
        Ok(permit) => {
            let standing = watches.log().standing(secret).await?;
            let known = standing.is_some_and(|stored| stored.record.version(version).is_some());
            let found = if known { Ok(()) } else { secrets.version(&permit, version).await.map(drop) };
            (Decision::Allow, Some(permit.policy()), found)
        }
    };
    let (decision, policy, found) = found;
    call.draft.note(|record| {
        let outcome = found.as_ref().map_or_else(|failure| failure.reason().name(), |()| "OK");
        let resource = secret.shared();
        record.items.push(Item { resource, version: Some(Arc::clone(version)), decision, outcome, source: "" });
        (record.decision, record.policy) = (decision, policy);
    });
    found
}

pub(super) async fn list(
    watches: &Watches,
    page_tokens: &PageTokens,
    call: Call,
    message: ListSubscribersRequest,
) -> Result<ListSubscribersResponse, Failure> {
    call.meter()?;
    let ListSubscribersRequest { page_token, secret, behind_only, connected_only, .. } = message;
    let size = page_size(message.page_size)?;
    let (behind, connected) = (behind_only.to_string(), connected_only.to_string());
    let binding = Binding::of(&[call.caller.id(), call.method.path, &secret, &behind, &connected]);
    let mut place = page_tokens.open(&page_token, binding)?.map(|text| place(&text)).transpose()?;
    let only = match secret.as_str() {
        "" => None,
        name => Some(SecretName::parse(name).map_err(bad_name("secret"))?),
    };
    let mut lister =
        Lister { watches, call: &call, only, may: HashMap::new(), standings: HashMap::new(), sample: None };
    let (mut subscribers, mut looked_at) = (Vec::new(), 0);
    let mut more = true;
    while more && subscribers.len() < size && looked_at < MAX_LOOKED_AT {
        let seen = watches.subscribers().after(place.as_ref(), size);
        more = seen.len() == size;
        for seen in seen {
            looked_at += 1;
            place = Some((Arc::clone(&seen.subscriber.caller), seen.subscriber.name.clone()));
            if connected_only && seen.stream.is_none() {
                continue;
            }
            let Some((message, behind)) = lister.message(&seen).await? else { continue };
            if behind || !behind_only {
                subscribers.push(message);
            }
            if subscribers.len() == size {
                more = true;
                break;
            }
        }
        tokio::task::yield_now().await;
    }
    let next_page_token = match place.filter(|_| more) {
        Some((caller, name)) => page_tokens.seal(&format!("{caller}\n{}", name.as_str()), binding)?,
        None => String::new(),
    };
    Ok(ListSubscribersResponse { subscribers, next_page_token })
}

/// What one list has found out of secrets already.
struct Lister<'a> {
    watches: &'a Watches,
    call: &'a Call,
    /// The one secret that is asked for.
    only: Option<SecretName>,
    may: HashMap<SecretName, bool>,
    standings: HashMap<SecretName, Option<Standing>>,
    sample: Option<Vec<SecretName>>,
}

impl Lister<'_> {
    /// As far as the caller may see it, and whether it is behind with something. `None`: it has nothing for the caller.
    async fn message(&mut self, seen: &Seen) -> Result<Option<(SubscriberMessage, bool)>, Failure> {
        let subscriber = &seen.subscriber;
        let secrets: BTreeSet<SecretName> = match &self.only {
            Some(only) if subscriber.filter.takes_in(only) || subscriber.runs.contains_key(only) => {
                [only.clone()].into()
            }
            Some(_) => return Ok(None),
            None => subscriber.runs.keys().chain(subscriber.filter.names()).cloned().collect(),
        };
        let mut visible = Vec::new();
        for secret in &secrets {
            if self.may_see(secret).await {
                visible.push(secret);
            }
        }
        let known_by =
            if secrets.is_empty() { self.is_known_by_sample(&subscriber.filter).await? } else { !visible.is_empty() };
        if !known_by {
            return Ok(None);
        }
        let now = self.call.clock.now();
        let (mut versions, mut is_behind) = (Vec::new(), false);
        for secret in &visible {
            let standing = self.standing(secret).await?;
            is_behind |= behind(subscriber.runs.get(*secret), standing);
            if versions.len() < MAX_VERSIONS {
                versions.push(version(secret, subscriber.runs.get(*secret), standing, now));
            }
        }
        let omitted = i32::try_from(visible.len() - versions.len()).unwrap_or(i32::MAX);
        Ok(Some((message(seen, self.watches, versions, omitted), is_behind)))
    }

    async fn may_see(&mut self, secret: &SecretName) -> bool {
        if let Some(may) = self.may.get(secret) {
            return *may;
        }
        let action = Action::ListSubscribers;
        let labels = if self.call.gate.reads_labels(action) {
            self.watches.sight().secrets.labels(secret).await.ok().flatten()
        } else {
            Some(Labels::default())
        };
        let may = labels.is_some_and(|labels| self.call.may(action, &Resource::Secret(secret.clone(), labels)));
        self.may.insert(secret.clone(), may);
        may
    }

    async fn standing(&mut self, secret: &SecretName) -> Result<Option<&Standing>, Failure> {
        if !self.standings.contains_key(secret) {
            let standing = self.watches.log().standing(secret).await?.map(|stored| stored.record);
            self.standings.insert(secret.clone(), standing);
        }
        Ok(self.standings.get(secret).and_then(Option::as_ref))
    }

    /// Whether it watches something that the caller may see.
    async fn is_known_by_sample(&mut self, filter: &Filter) -> Result<bool, Failure> {
        if self.sample.is_none() {
            let page = self.watches.log().standings(None, ListPage { after: None, size: SAMPLE }).await?;
            let mut sample = Vec::new();
            for stored in page.records {
                if self.may_see(stored.record.secret()).await {
                    sample.push(stored.record.secret().clone());
                }
            }
            self.sample = Some(sample);
        }
        Ok(self.sample.iter().flatten().any(|secret| filter.takes_in(secret)))
    }
}

fn message(seen: &Seen, watches: &Watches, versions: Vec<SubscriberVersion>, omitted: i32) -> SubscriberMessage {
    let Seen { subscriber, stream, sent, last_seen } = seen;
    let head = watches.log().head().map_or(0, |head| head.revision.get());
    SubscriberMessage {
        caller: subscriber.caller.to_string(),
        subscriber: subscriber.name.as_str().to_owned(),
        kind: kind(subscriber.way).into(),
        connected: stream.is_some(),
        node: stream.as_ref().map(|stream| stream.node.clone()).unwrap_or_default(),
        connect_time: stream.as_ref().map(|stream| timestamp(stream.since)),
        last_seen_time: Some(timestamp(*last_seen)),
        revision: revision(Revision::new(*sent)),
        lag_revisions: revision(Revision::new(head.saturating_sub(*sent))),
        versions,
        versions_omitted_count: omitted,
    }
}

fn kind(way: Way) -> SubscriberKind {
    match way {
        Way::Watch => SubscriberKind::Watch,
        Way::Envoy => SubscriberKind::Envoy,
        Way::ApiManagement => SubscriberKind::ApiManagement,
    }
}

/// Whether it should run another version than it says it runs.
fn behind(runs: Option<&Runs>, standing: Option<&Standing>) -> bool {
    let current = standing.and_then(Standing::current);
    current.is_some_and(|current| runs.and_then(|runs| runs.version.as_ref()) != Some(&current.id))
}

fn version(secret: &SecretName, runs: Option<&Runs>, standing: Option<&Standing>, now: Timestamp) -> SubscriberVersion {
    let current = standing.and_then(Standing::current).map(|current| &current.id);
    let runs_version = runs.and_then(|runs| runs.version.as_ref());
    let name = |id: Option<&Arc<str>>| id.map(|id| version_name(secret, id)).unwrap_or_default();
    let refused = runs.and_then(|runs| runs.refused.as_ref()).filter(|refused| Some(&refused.version) == current);
    let since = standing.and_then(Standing::current_since).filter(|_| behind(runs, standing));
    SubscriberVersion {
        secret: secret.to_string(),
        version: name(runs_version),
        acknowledge_time: runs.filter(|runs| runs.version.is_some()).map(|runs| timestamp(runs.since)),
        current_version: name(current),
        lag: since.and_then(|since| now.since(since).try_into().ok()),
        rejection: refused.map(|refused| refused.why.clone()).unwrap_or_default(),
    }
}

fn place(text: &str) -> Result<Place, Failure> {
    let place =
        text.rsplit_once('\n').and_then(|(caller, name)| Some((caller.into(), SubscriberName::parse(name).ok()?)));
    place.ok_or_else(|| {
        Failure::bad_field(
            Reason::InvalidPageToken,
            "page_token",
            "is not from an earlier page of this same request; begin again without it",
        )
    })
}
