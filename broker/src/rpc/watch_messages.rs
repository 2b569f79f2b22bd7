//! What subscribers are told, as the bytes that they receive.

use std::sync::Arc;

use bytes::Bytes;
use keyferry_proto::v1::watch_rotations_response::Response as Told;
use keyferry_proto::v1::{
    RotationBookmark, RotationEvent, RotationEventBatch, RotationEventKind, RotationResync, RotationResyncReason,
    RotationSnapshot, RotationSnapshotEntry, RotationSource, SecretVersionState, WatchRotationsResponse,
};
use prost::Message as _;
use prost::encoding::string;

use super::proto_time::timestamp;
use crate::names::{SecretName, VersionId};
use crate::rotation::watch::{self, Bookmark, Entry, Part, Why};
use crate::rotation::{Change, Event, EventKind, Origin, Position};
use crate::secrets::VersionState;
use crate::state::Revision;

/// One message in two parts, which make one when written one after the other: fields may come in any order.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) cursor: Vec<u8>,
    /// The rest, which many receive alike.
    pub(super) told: Bytes,
}

impl Wire {
    pub(super) fn len(&self) -> usize {
        self.cursor.len() + self.told.len()
    }
}

pub(super) fn encode(message: watch::Message) -> Wire {
    let mut cursor = Vec::new();
    if let Some(place) = message.cursor {
        string::encode(1, &place.encode(), &mut cursor);
    }
    Wire { cursor, told: told(message.told) }
}

fn told(told: watch::Told) -> Bytes {
    let told = match told {
        watch::Told::Changes(parts) => match parts.as_slice() {
            [Part { position, change, only: None }] => return whole(*position, change),
            parts => Told::Events(batch(parts)),
        },
        watch::Told::Snapshot { entries, complete } => {
            Told::Snapshot(RotationSnapshot { entries: entries.into_iter().map(entry).collect(), complete })
        }
        watch::Told::Bookmark(told) => Told::Bookmark(bookmark(&told)),
        watch::Told::Resync(why) => Told::Resync(RotationResync { reason: reason(why).into() }),
    };
    bytes(told)
}

/// The first who is told all of a change has it encoded for the others.
fn whole(position: Position, change: &Arc<Change>) -> Bytes {
    let encode = || bytes(Told::Events(batch(&[Part { position, change: Arc::clone(change), only: None }])));
    change.encoded.get_or_init(encode).clone()
}

fn bytes(told: Told) -> Bytes {
    WatchRotationsResponse { cursor: String::new(), response: Some(told) }.encode_to_vec().into()
}

fn batch(parts: &[Part]) -> RotationEventBatch {
    let events = parts.iter().flat_map(|part| part.events().iter().map(|told| event(part, told)));
    RotationEventBatch { events: events.collect() }
}

fn event(part: &Part, event: &Event) -> RotationEvent {
    let version = |id: &Option<Arc<str>>| id.as_ref().map(|id| version_name(&event.secret, id)).unwrap_or_default();
    RotationEvent {
        epoch: part.position.epoch.to_string(),
        revision: revision(part.change.revision),
        kind: kind(event.kind).into(),
        secret: event.secret.to_string(),
        version: version(&event.version),
        previous_version: version(&event.previous),
        rotation: event.rotation.as_ref().map(ToString::to_string).unwrap_or_default(),
        source: source(event.origin).into(),
        event_time: Some(timestamp(event.happened)),
        commit_time: Some(timestamp(part.change.committed)),
        retire_deadline_time: event.retires.map(timestamp),
    }
}

fn entry(entry: Entry) -> RotationSnapshotEntry {
    let Entry { secret, standing } = entry;
    let Some((standing, at)) = standing else {
        return RotationSnapshotEntry { secret: secret.to_string(), ..RotationSnapshotEntry::default() };
    };
    let current = standing.current();
    let rotation = standing.rotation();
    let retiring = rotation.and_then(|rotation| rotation.retiring.as_ref());
    RotationSnapshotEntry {
        secret: secret.to_string(),
        version: current.map(|version| version_name(&secret, &version.id)).unwrap_or_default(),
        version_state: current.map_or(SecretVersionState::Unspecified, |version| state(version.state)).into(),
        retiring_version: retiring.map(|id| version_name(&secret, id)).unwrap_or_default(),
        rotation: rotation.map(|rotation| rotation.name.to_string()).unwrap_or_default(),
        retire_deadline_time: rotation.and_then(|rotation| rotation.retires).map(timestamp),
        revision: revision(at),
    }
}

fn bookmark(bookmark: &Bookmark) -> RotationBookmark {
    RotationBookmark {
        epoch: bookmark.position.epoch.to_string(),
        revision: revision(bookmark.position.revision),
        server_time: Some(timestamp(bookmark.now)),
        credential_expire_time: bookmark.credential_ends.map(timestamp),
        draining: bookmark.reconnect_delay.is_some(),
        reconnect_delay: bookmark.reconnect_delay.and_then(|delay| delay.try_into().ok()),
    }
}

pub(super) fn version_name(secret: &SecretName, id: &Arc<str>) -> String {
    secret.version(VersionId::Exact(Arc::clone(id))).to_string()
}

pub(super) fn revision(revision: Revision) -> i64 {
    i64::try_from(revision.get()).unwrap_or(i64::MAX)
}

fn state(state: VersionState) -> SecretVersionState {
    match state {
        VersionState::Enabled => SecretVersionState::Enabled,
        VersionState::Disabled => SecretVersionState::Disabled,
        VersionState::Destroyed => SecretVersionState::Destroyed,
    }
}

fn reason(why: Why) -> RotationResyncReason {
    match why {
        Why::Compacted => RotationResyncReason::Compacted,
        Why::Lagged => RotationResyncReason::Lagged,
        Why::PolicyChanged => RotationResyncReason::PolicyChanged,
        Why::EpochChanged => RotationResyncReason::EpochChanged,
    }
}

fn kind(kind: EventKind) -> RotationEventKind {
    match kind {
        EventKind::VersionCurrent => RotationEventKind::VersionCurrent,
        EventKind::VersionRetiring => RotationEventKind::VersionRetiring,
        EventKind::VersionEnabled => RotationEventKind::VersionEnabled,
        EventKind::VersionDisabled => RotationEventKind::VersionDisabled,
        EventKind::VersionDestroyed => RotationEventKind::VersionDestroyed,
        EventKind::VersionNearExpiry => RotationEventKind::VersionNearExpiry,
        EventKind::SecretDeleted => RotationEventKind::SecretDeleted,
        EventKind::SecretUpdated => RotationEventKind::SecretUpdated,
        EventKind::RotationStarted => RotationEventKind::RotationStarted,
        EventKind::RotationAdvanced => RotationEventKind::RotationAdvanced,
        EventKind::RotationEnded => RotationEventKind::RotationEnded,
    }
}

fn source(origin: Origin) -> RotationSource {
    match origin {
        Origin::Operator => RotationSource::Operator,
        Origin::Schedule => RotationSource::Schedule,
        Origin::PubSub => RotationSource::Pubsub,
        Origin::EventGrid => RotationSource::EventGrid,
        Origin::Poll => RotationSource::Poll,
    }
}
