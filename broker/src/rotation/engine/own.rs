//! The new value: made, or found again where an earlier attempt stored it and nobody lived to put that on record.

use std::sync::Arc;

use super::attempt::{Attempt, Halt};
use super::record::{Stage, Users};
use crate::databases::new_password;
use crate::error::{Failure, Reason};
use crate::failpoints::Point;
use crate::names::SecretName;
use crate::rotation::VersionMark;
use crate::rotation::settings::{Strategy, TwoUsers};
use crate::rotation::strategies::generate::Form;
use crate::rotation::strategies::postgres::{Credential, foreign, idle};
use crate::secrets::{SecretBytes, VersionInfo, VersionState};

/// An attempt that fails leaves a digest; whatever is older than so many has not arrived late, but never.
const MOST_DIGESTS: usize = 64;

/// A version that holds a value of this rotation's.
struct Own {
    target: usize,
    version: VersionInfo,
    value: SecretBytes,
    digest: String,
}

impl Attempt<'_> {
    /// The value that all targets are to have. Its digest is on record.
    pub(super) async fn value(&mut self, strategy: &Strategy) -> Result<SecretBytes, Halt> {
        if let Some(found) = self.found().await? {
            return Ok(found);
        }
        let (value, users) = match strategy {
            Strategy::Generate(form) => (generate(form.clone()).await?, None),
            Strategy::Postgres(settings) => {
                let (value, users) = self.credential(settings).await?;
                (value, Some(users))
            }
            Strategy::External => return Err(Halt::Failed(misfit())),
        };
        let digest = self.rotation.digest(&value);
        self.save(|rotation| {
            rotation.digests.push(digest);
            let excess = rotation.digests.len().saturating_sub(MOST_DIGESTS);
            rotation.digests.drain(..excess);
            rotation.users = users;
        })
        .await?;
        self.engine.failpoints.reach(Point::RotationDigested);
        Ok(value)
    }

    /// Puts on record that the target has its version, and where all have, that the stage is reached.
    pub(super) async fn claim(&mut self, target: usize, version: &VersionInfo) -> Result<(), Halt> {
        let mark = VersionMark::from(version);
        let Some(secret) = self.rotation.targets.get(target).map(|target| target.secret.clone()) else {
            return Err(Halt::Failed(misfit()));
        };
        self.change(&[secret], |standings, rotation, now| {
            standings.iter_mut().for_each(|standing| standing.added(&mark, now));
            if let Some(target) = rotation.targets.get_mut(target) {
                (target.version, target.last_error) = (Some(Arc::clone(&mark.id)), None);
            }
            if rotation.targets.iter().all(|target| target.version.is_some()) {
                rotation.enter(Stage::Created, 0, now);
                rotation.last_error = None;
            }
            Ok(())
        })
        .await
    }

    /// Every version of this rotation's that is there and not on record becomes no secret's current one.
    pub(super) async fn withhold_strays(&mut self) -> Result<Vec<(SecretName, Arc<str>)>, Halt> {
        let mut strays = Vec::new();
        for own in self.own().await? {
            strays.extend(self.withhold(&own).await?);
        }
        Ok(strays)
    }

    /// Of several that were tried, the one that a target has on record, or else the one that was tried last.
    async fn found(&mut self) -> Result<Option<SecretBytes>, Halt> {
        if self.rotation.digests.is_empty() {
            return Ok(None);
        }
        let recorded = self.rotation.targets.iter().find_map(|target| Some((&target.secret, target.version.as_ref()?)));
        let recorded = match recorded {
            Some((secret, version)) => Some(self.engine.custody.value(secret, version).await?),
            None => None,
        };
        let own = self.own().await?;
        let tried_last = |own: &&Own| self.rotation.digests.iter().position(|digest| *digest == own.digest);
        let chosen = recorded.or_else(|| own.iter().max_by_key(tried_last).map(|own| own.value.clone()));
        let Some(chosen) = chosen else { return Ok(None) };
        let digest = self.rotation.digest(&chosen);
        // First the strays: to claim is to say that whatever else was added is somebody else's.
        for stray in own.iter().filter(|own| own.digest != digest) {
            self.withhold(stray).await?;
        }
        for own in own.iter().filter(|own| own.digest == digest) {
            let has_none = self.rotation.targets.get(own.target).is_some_and(|target| target.version.is_none());
            if has_none {
                self.claim(own.target, &own.version).await?;
            } else {
                self.withhold(own).await?;
            }
        }
        Ok(Some(chosen))
    }

    /// Versions that are there and not on record.
    async fn own(&self) -> Result<Vec<Own>, Failure> {
        let mut found = Vec::new();
        if self.rotation.digests.is_empty() {
            return Ok(found);
        }
        for (target, place) in self.rotation.targets.iter().enumerate() {
            let versions = self.engine.custody.since(&place.secret, place.previous.as_deref()).await?;
            let unknown = |version: &VersionInfo| Some(&version.id) != place.version.as_ref();
            for version in versions.into_iter().filter(unknown) {
                if version.state != VersionState::Enabled {
                    continue;
                }
                let value = match self.engine.custody.value(&place.secret, &version.id).await {
                    Ok(value) => value,
                    Err(failure) if is_shut(failure.reason()) => continue,
                    Err(failure) => return Err(failure),
                };
                let digest = self.rotation.digest(&value);
                if self.rotation.digests.contains(&digest) {
                    found.push(Own { target, version, value, digest });
                }
            }
        }
        Ok(found)
    }

    async fn withhold(&mut self, own: &Own) -> Result<Option<(SecretName, Arc<str>)>, Halt> {
        let Some(target) = self.rotation.targets.get(own.target) else { return Ok(None) };
        let (secret, mark) = (target.secret.clone(), VersionMark::from(&own.version));
        let recorded = target.version.is_some();
        // Where the rotation's own version is known, the stray was taken for somebody's and cannot be taken back; it is
        // disabled all the same.
        if !recorded {
            self.change(std::slice::from_ref(&secret), |standings, _, now| {
                standings.iter_mut().for_each(|standing| standing.added(&mark, now));
                Ok(())
            })
            .await?;
        }
        Ok(Some((secret, mark.id)))
    }

    /// For the user whose turn it is.
    async fn credential(&self, settings: &TwoUsers) -> Result<(SecretBytes, Users), Failure> {
        let first = self.rotation.targets.first().ok_or_else(misfit)?;
        let old = match &first.previous {
            None => None,
            Some(previous) => {
                let value = self.engine.custody.value(&first.secret, previous).await?;
                Some(Credential::read(&value).ok_or_else(foreign)?.user)
            }
        };
        let user = idle(&settings.users, old.as_deref())?.to_owned();
        let password = new_password()?;
        let credential = Credential::new(user.clone(), &password);
        let users = Users { database: settings.database.as_str().to_owned(), new: user, old };
        Ok((settings.format.write(&credential, &settings.place), users))
    }
}

/// Keys take a while to make, which the runtime's own threads should not wait for.
async fn generate(form: Form) -> Result<SecretBytes, Failure> {
    let made = tokio::task::spawn_blocking(move || form.generate()).await;
    made.unwrap_or_else(|error| Err(Failure::new(Reason::Internal, "a value could not be made").caused_by(error)))
}

fn is_shut(reason: Reason) -> bool {
    matches!(reason, Reason::VersionNotFound | Reason::VersionDisabled | Reason::VersionDestroyed)
}

pub(super) fn misfit() -> Failure {
    Failure::new(Reason::Internal, "a rotation's record does not fit its strategy; report this")
}
