//! What is known of one secret: which version is current, which ones are on their way in or out, and the change that
//! made it so. Whatever is said of the secret more than once, or late, makes no second change.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::event::{Event, EventKind, Fact, Observation, Origin, VersionMark};
use crate::clock::Timestamp;
use crate::names::{RotationName, SecretName};
use crate::secrets::{Newest, VersionState, Word};
use crate::state::{Kind, Record};

pub(super) static SECRETS: Kind = Kind { name: "secrets", upgrades: &[] };

/// Versions that are told apart: of older ones nobody should speak any more.
const MOST_VERSIONS: usize = 32;

/// The log has no record but these: each is written by the change that it tells of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    secret: SecretName,
    known: Known,
    /// When its last change was committed.
    pub(super) committed: Timestamp,
    /// That change. Absent where it was none to tell.
    event: Option<Event>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    /// The newest first.
    versions: Vec<Version>,
    current_since: Option<Timestamp>,
    /// Since when whatever was said before no longer counts.
    deleted: Option<Timestamp>,
    updated: Option<Timestamp>,
    rotation: Option<Underway>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    pub id: Arc<str>,
    pub created: Option<Timestamp>,
    pub state: VersionState,
    /// When that was said of it last.
    since: Option<Timestamp>,
    /// When it was heard to be added.
    added: Option<Timestamp>,
    ends_soon: bool,
    release: Release,
}

/// Whether a version counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Release {
    /// Something was said of it, but not yet that it was added.
    Unseen,
    /// Added when a rotation was about to add one, perhaps by it.
    Undecided,
    /// A rotation's own, which was not promoted, or never will be.
    Withheld,
    Released,
}

/// The rotation that has the secret in hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Underway {
    pub name: RotationName,
    pub origin: Origin,
    /// It is about to add a version, and nobody knows yet what the store will call it.
    adding: bool,
    /// What it added.
    pub version: Option<Arc<str>>,
    /// What it takes out of use.
    pub retiring: Option<Arc<str>>,
    pub retires: Option<Timestamp>,
}

/// What a change is called, and the version that it happened to.
type Told = Option<(EventKind, Option<Arc<str>>)>;

impl Standing {
    pub fn new(secret: SecretName) -> Self {
        Self { secret, known: Known::default(), committed: Timestamp::from_micros(0), event: None }
    }

    pub fn secret(&self) -> &SecretName {
        &self.secret
    }

    /// The newest version that counts.
    pub fn current(&self) -> Option<&Version> {
        self.known.versions.iter().find(|version| version.release == Release::Released)
    }

    pub fn current_since(&self) -> Option<Timestamp> {
        self.known.current_since
    }

    pub fn version(&self, id: &str) -> Option<&Version> {
        self.known.versions.iter().find(|version| *version.id == *id)
    }

    /// The ids of the version and of all that are newer.
    pub fn since<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a str> {
        let ids = self.known.versions.iter().map(|version| &*version.id);
        ids.take_while(move |newer| *newer != id).chain(std::iter::once(id))
    }

    pub fn rotation(&self) -> Option<&Underway> {
        self.known.rotation.as_ref()
    }

    pub fn is_deleted(&self) -> bool {
        let unseen = |version: &Version| version.release == Release::Unseen;
        self.known.deleted.is_some() && self.known.versions.iter().all(unseen)
    }

    pub fn committed(&self) -> Timestamp {
        self.committed
    }

    pub fn event(&self) -> Option<&Event> {
        self.event.as_ref()
    }

    /// What `latest` is: a rotation's version is not to be read unasked before it is promoted.
    pub fn word(&self) -> Word {
        let current = self.known.current_id();
        let mut newer = self.known.versions.iter().take_while(|version| Some(&version.id) != current);
        let adding = self.rotation().is_some_and(|rotation| rotation.adding);
        let withholds = adding || newer.any(|version| version.release != Release::Unseen);
        Word { current: current.cloned(), withholds }
    }

    /// Takes in what somebody says. Whether that is news.
    pub fn observe(&mut self, observation: &Observation, now: Timestamp) -> bool {
        let Observation { fact, origin, happened } = observation;
        let before = self.known.clone();
        let created = if let Fact::VersionAdded(mark) = fact { mark.created } else { None };
        let when = happened.or(created).unwrap_or(now);
        let told = match fact {
            Fact::VersionAdded(mark) => self.add(mark, *origin, when),
            Fact::VersionEnabled(id) => self.switch(id, VersionState::Enabled, *origin, when),
            Fact::VersionDisabled(id) => self.switch(id, VersionState::Disabled, *origin, when),
            Fact::VersionDestroyed(id) => self.switch(id, VersionState::Destroyed, *origin, when),
            Fact::NearExpiry(id) => self.ends_soon(id, when),
            Fact::SecretDeleted => self.delete(*origin, when),
            Fact::SecretUpdated => self.update(when),
        };
        self.conclude(&before, told, *origin, when);
        self.known != before
    }

    /// A rotation takes the secret in hand. Where it `adds` a version, `latest` stays what it is until that is promoted.
    pub fn begin(&mut self, rotation: RotationName, adds: bool, origin: Origin, now: Timestamp) {
        let before = self.known.clone();
        self.known.rotation =
            Some(Underway { name: rotation, origin, adding: adds, version: None, retiring: None, retires: None });
        self.conclude(&before, Some((EventKind::RotationStarted, None)), origin, now);
    }

    /// The rotation knows its version. Unless `more` of its own may come, what others added meanwhile counts from now
    /// on, and may be newer.
    pub fn added(&mut self, mark: &VersionMark, more: bool, now: Timestamp) {
        self.step(now, |standing| {
            standing.known.release(mark, now, Release::Withheld);
            if !more {
                standing.decide();
            }
            if let Some(rotation) = &mut standing.known.rotation {
                rotation.version = Some(Arc::clone(&mark.id));
            }
            (EventKind::RotationAdvanced, Some(Arc::clone(&mark.id)))
        });
    }

    /// The rotation added it and does not take it up: whatever was said of it, it never becomes current.
    pub fn withhold(&mut self, mark: &VersionMark, now: Timestamp) {
        self.step(now, |standing| {
            standing.known.release(mark, now, Release::Withheld);
            (EventKind::RotationAdvanced, Some(Arc::clone(&mark.id)))
        });
    }

    pub fn is_undecided(&self, id: &str) -> bool {
        self.version(id).is_some_and(|version| version.release == Release::Undecided)
    }

    /// Those of them that nobody had claimed are not the rotation's, and count from now on.
    pub fn concede(&mut self, ids: &[Arc<str>], now: Timestamp) {
        self.step(now, |standing| {
            let undecided = |version: &&mut Version| version.release == Release::Undecided;
            for version in
                standing.known.versions.iter_mut().filter(undecided).filter(|version| ids.contains(&version.id))
            {
                version.release = Release::Released;
            }
            (EventKind::RotationAdvanced, None)
        });
    }

    /// The rotation moved on, and nothing changed for readers.
    pub fn advance(&mut self, now: Timestamp) {
        self.step(now, |standing| {
            let version = standing.rotation().and_then(|rotation| rotation.version.clone());
            (EventKind::RotationAdvanced, version)
        });
    }

    /// The rotation's version becomes the current one. Not so, and nothing changes, where somebody added a newer one.
    pub fn promote(&mut self, retires: Option<Timestamp>, now: Timestamp) -> bool {
        let Some(id) = self.rotation().and_then(|rotation| rotation.version.clone()) else { return false };
        let previous = self.current().map(|version| Arc::clone(&version.id));
        let mut promoted = self.known.clone();
        promoted.release_known(&id);
        if promoted.current_id() != Some(&id) {
            return false;
        }
        self.step(now, |standing| {
            standing.known.release_known(&id);
            if let Some(rotation) = &mut standing.known.rotation {
                (rotation.retiring, rotation.retires) = (previous, retires);
            }
            (EventKind::VersionCurrent, Some(id))
        });
        true
    }

    /// The version is on its way out. The rotation takes the secret in hand if it has not already.
    pub fn retire(
        &mut self,
        rotation: &RotationName,
        version: &Arc<str>,
        retires: Option<Timestamp>,
        origin: Origin,
        now: Timestamp,
    ) {
        let before = self.known.clone();
        let underway = self.known.rotation.take().filter(|underway| underway.name == *rotation);
        let fresh = || Underway {
            name: rotation.clone(),
            origin,
            adding: false,
            version: before.current_id().cloned(),
            retiring: None,
            retires: None,
        };
        let underway = underway.unwrap_or_else(fresh);
        self.known.rotation = Some(Underway { retiring: Some(Arc::clone(version)), retires, ..underway });
        self.conclude(&before, Some((EventKind::VersionRetiring, Some(Arc::clone(version)))), origin, now);
    }

    /// The old version was disabled, and the rotation lets the secret go.
    pub fn retired(&mut self, now: Timestamp) {
        let retired = self.rotation().and_then(|rotation| rotation.retiring.clone());
        self.step(now, |standing| {
            let told = retired.and_then(|id| standing.switch(&id, VersionState::Disabled, Origin::Operator, now));
            told.unwrap_or((EventKind::RotationAdvanced, None))
        });
        self.known.rotation = None;
    }

    /// The rotation failed or was cancelled, and lets the secret go. A version of its own never becomes current.
    pub fn end(&mut self, now: Timestamp) {
        self.step(now, |standing| {
            standing.decide();
            (EventKind::RotationEnded, None)
        });
        self.known.rotation = None;
    }

    fn step(&mut self, now: Timestamp, edit: impl FnOnce(&mut Self) -> (EventKind, Option<Arc<str>>)) {
        let before = self.known.clone();
        let origin = self.rotation().map_or(Origin::Operator, |rotation| rotation.origin);
        let told = edit(self);
        self.conclude(&before, Some(told), origin, now);
    }

    /// No version is undecided any more.
    fn decide(&mut self) {
        for version in &mut self.known.versions {
            if version.release == Release::Undecided {
                version.release = Release::Released;
            }
        }
        if let Some(rotation) = &mut self.known.rotation {
            rotation.adding = false;
        }
    }

    fn add(&mut self, mark: &VersionMark, origin: Origin, when: Timestamp) -> Told {
        let added = mark.created.unwrap_or(when);
        if self.known.deleted.is_some_and(|deleted| added <= deleted) {
            return None;
        }
        // Whoever adds through this broker is no rotation of its own.
        let adding = self.rotation().is_some_and(|rotation| rotation.adding) && origin != Origin::Operator;
        let release = if adding { Release::Undecided } else { Release::Released };
        let release = match self.version(&mark.id).map(|version| version.release) {
            Some(known @ (Release::Withheld | Release::Released)) => known,
            Some(Release::Undecided | Release::Unseen) | None => release,
        };
        let reused = self.known.release(mark, when, release);
        let told = if origin == Origin::Poll { self.switch(&mark.id, mark.state, origin, when) } else { None };
        if reused && release == Release::Released {
            return Some((EventKind::VersionCurrent, Some(Arc::clone(&mark.id))));
        }
        told
    }

    fn switch(&mut self, id: &Arc<str>, state: VersionState, origin: Origin, when: Timestamp) -> Told {
        if self.known.deleted.is_some_and(|deleted| when <= deleted) {
            return None;
        }
        let kind = match state {
            VersionState::Enabled => EventKind::VersionEnabled,
            VersionState::Disabled => EventKind::VersionDisabled,
            VersionState::Destroyed => EventKind::VersionDestroyed,
        };
        let told = Some((kind, Some(Arc::clone(id))));
        let Some(version) = self.known.versions.iter_mut().find(|version| version.id == *id) else {
            // A poll tells of many that nobody has used for long.
            if origin == Origin::Poll {
                return None;
            }
            self.known.insert(Version { state, since: Some(when), ..Version::unseen(id) });
            return told;
        };
        // Of what is said of one moment, the worst is true: a version is made before it is disabled.
        let is_of_former_life = version.created.is_some_and(|created| when < created);
        let is_late = version.since.is_some_and(|since| when < since || (when == since && state <= version.state));
        if is_of_former_life || is_late {
            return None;
        }
        if version.state != state {
            (version.state, version.since) = (state, Some(when));
            return told;
        }
        if origin != Origin::Poll {
            // What happened before cannot undo it any more.
            version.since = Some(when);
        }
        None
    }

    fn ends_soon(&mut self, id: &Arc<str>, when: Timestamp) -> Told {
        if self.known.deleted.is_some_and(|deleted| when <= deleted) {
            return None;
        }
        if self.version(id).is_none() {
            self.known.insert(Version::unseen(id));
        }
        let concerns_readers = self.known.current_id().is_none_or(|current| current == id) && self.rotation().is_none();
        let version = self.known.versions.iter_mut().find(|version| version.id == *id)?;
        let known = std::mem::replace(&mut version.ends_soon, true);
        (!known && concerns_readers).then(|| (EventKind::VersionNearExpiry, Some(Arc::clone(id))))
    }

    fn delete(&mut self, origin: Origin, when: Timestamp) -> Told {
        let was_gone = self.is_deleted();
        if self.known.deleted.is_some_and(|deleted| when <= deleted) || (was_gone && origin == Origin::Poll) {
            return None;
        }
        // What was added, or said, since then belongs to the secret that was made anew.
        self.known.versions.retain_mut(|version| {
            let is_former = version.created.or(version.added).is_none_or(|added| added <= when);
            if is_former {
                *version = Version { state: version.state, since: version.since, ..Version::unseen(&version.id) };
            }
            !is_former || version.since.is_some_and(|since| since > when)
        });
        self.known.deleted = Some(when);
        (self.is_deleted() && !was_gone).then_some((EventKind::SecretDeleted, None))
    }

    fn update(&mut self, when: Timestamp) -> Told {
        let stale = [self.known.updated, self.known.deleted].into_iter().flatten().any(|known| when <= known);
        if stale {
            return None;
        }
        self.known.updated = Some(when);
        Some((EventKind::SecretUpdated, None))
    }

    /// Another current version is what concerns readers most, whatever else happened.
    fn conclude(&mut self, before: &Known, told: Told, origin: Origin, happened: Timestamp) {
        self.known.evict();
        let previous = before.current_id().cloned();
        let current = self.known.current_id().cloned();
        if current != previous {
            self.known.current_since = current.is_some().then_some(happened);
        }
        let turned = current.is_some() && current != previous;
        let told = if turned { Some((EventKind::VersionCurrent, current)) } else { told };
        let rotation = self.known.rotation.as_ref().or(before.rotation.as_ref());
        self.event = told.map(|(kind, version)| Event {
            secret: self.secret.clone(),
            kind,
            version,
            previous: previous.filter(|_| turned),
            rotation: rotation.map(|rotation| rotation.name.clone()),
            origin,
            happened,
            retires: rotation.and_then(|rotation| rotation.retires),
        });
    }
}

impl Known {
    fn current_id(&self) -> Option<&Arc<str>> {
        self.versions.iter().find(|version| version.release == Release::Released).map(|version| &version.id)
    }

    /// Puts the version where it belongs, with what was known of it before. Whether its id was used anew.
    fn release(&mut self, mark: &VersionMark, since: Timestamp, release: Release) -> bool {
        let place = self.versions.iter().position(|version| version.id == mark.id);
        let known = place.map(|place| self.versions.remove(place));
        let fresh = Version { state: mark.state, since: Some(since), ..Version::unseen(&mark.id) };
        let is_of_former_life = |version: &Version| version.created.zip(mark.created).is_some_and(|(was, is)| was < is);
        let reused = known.as_ref().is_some_and(is_of_former_life);
        let outlived = |version: &Version| {
            (reused || version.release == Release::Unseen)
                && mark.created.is_some_and(|created| version.since <= Some(created))
        };
        let version = known.filter(|version| !outlived(version)).unwrap_or(fresh);
        // Where nothing orders it anew, it stays where it was.
        let ordered =
            reused || version.release == Release::Unseen || (version.created.is_none() && mark.created.is_some());
        let added = version.added.or(Some(since));
        let version = Version { created: version.created.max(mark.created), added, release, ..version };
        match place.filter(|_| !ordered) {
            Some(place) => self.versions.insert(place, version),
            None => self.insert(version),
        }
        reused
    }

    fn release_known(&mut self, id: &Arc<str>) {
        if let Some(version) = self.versions.iter_mut().find(|version| version.id == *id) {
            version.release = Release::Released;
        }
    }

    /// Before those that it is not older than: where nothing else decides, what was heard last is the newest.
    fn insert(&mut self, version: Version) {
        let newest = Newest::from(&version);
        let place = self.versions.iter().position(|other| !newest.is_older_than(&other.into()));
        self.versions.insert(place.unwrap_or(self.versions.len()), version);
    }

    fn evict(&mut self) {
        while self.versions.len() > MOST_VERSIONS {
            let first = |release| self.versions.iter().find(|version| version.release == release);
            let rotation = self.rotation.as_ref();
            let needed = [
                self.current_id(),
                first(Release::Withheld).map(|version| &version.id),
                rotation.and_then(|rotation| rotation.version.as_ref()),
                rotation.and_then(|rotation| rotation.retiring.as_ref()),
            ];
            let Some(place) = self.versions.iter().rposition(|version| !needed.contains(&Some(&version.id))) else {
                return;
            };
            self.versions.remove(place);
        }
    }
}

impl Version {
    fn unseen(id: &Arc<str>) -> Self {
        Self {
            id: Arc::clone(id),
            created: None,
            state: VersionState::Enabled,
            since: None,
            added: None,
            ends_soon: false,
            release: Release::Unseen,
        }
    }
}

impl From<&Version> for Newest {
    fn from(version: &Version) -> Self {
        Self { id: Arc::clone(&version.id), created: version.created }
    }
}

impl Record for Standing {
    const KIND: &'static Kind = &SECRETS;
}
