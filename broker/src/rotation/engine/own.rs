//! The new value: made, or found again where an earlier attempt stored it and nobody lived to put that on record.

use std::sync::Arc;

use super::attempt::{Attempt, Halt};
use super::record::{Stage, Target, Users};
use crate::databases::new_password;
use crate::error::{Failure, Reason};
use crate::failpoints::Point;
use crate::names::{SecretName, VersionId};
use crate::rotation::VersionMark;
use crate::rotation::settings::{Strategy, TwoUsers};
use crate::rotation::strategies::generate::Form;
use crate::rotation::strategies::postgres::{Credential, Turns};
use crate::secrets::{SecretBytes, VersionInfo, VersionState};

/// An attempt that fails leaves a digest; whatever is older than so many has not arrived late, but never.
const MOST_DIGESTS: usize = 64;
/// Of each target, for a user that is still in use.
const LOOKED_THROUGH: usize = 16;

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
    pub(super) async fn claim(&mut self, target: usize, version: &VersionInfo, digest: &str) -> Result<(), Halt> {
        let mark = VersionMark::from(version);
        let secret = self.target(target)?.secret.clone();
        self.change(&[secret], |standings, rotation, now| {
            let place = rotation.targets.get_mut(target).ok_or_else(misfit)?;
            place.answered(digest);
            (place.version, place.last_error) = (Some(Arc::clone(&mark.id)), None);
            let more = place.awaits(now).is_some();
            standings.iter_mut().for_each(|standing| standing.added(&mark, more, now));
            if rotation.targets.iter().all(|target| target.version.is_some()) {
                rotation.enter(Stage::Created, 0, now);
                rotation.last_error = None;
            }
            Ok(())
        })
        .await
    }

    /// Every version of this rotation's that is there and not on record becomes no secret's current one. What others
    /// added meanwhile counts.
    pub(super) async fn withhold_strays(&mut self) -> Result<Vec<(SecretName, Arc<str>)>, Halt> {
        let mut strays = Vec::new();
        let (own, others) = self.found_beside().await?;
        for own in own {
            self.withhold(&own).await?;
            strays.push((self.target(own.target)?.secret.clone(), own.version.id));
        }
        for (target, others) in others.into_iter().enumerate() {
            let secret = self.target(target)?.secret.clone();
            let standing = self.engine.log.standing(&secret).await?;
            let undecided = |id: &Arc<str>| standing.as_ref().is_some_and(|stored| stored.record.is_undecided(id));
            if others.iter().any(undecided) {
                self.change(&[secret], |standings, _, now| {
                    standings.iter_mut().for_each(|standing| standing.concede(&others, now));
                    Ok(())
                })
                .await?;
            }
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
        let (own, _) = self.found_beside().await?;
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
                self.claim(own.target, &own.version, &own.digest).await?;
            } else {
                self.withhold(own).await?;
            }
        }
        Ok(Some(chosen))
    }

    /// Enabled versions that are there and not on record: the rotation's own, and of each target those of others.
    async fn found_beside(&self) -> Result<(Vec<Own>, Vec<Vec<Arc<str>>>), Failure> {
        let (mut found, mut others) = (Vec::new(), Vec::new());
        if self.rotation.digests.is_empty() {
            return Ok((found, others));
        }
        for (target, place) in self.rotation.targets.iter().enumerate() {
            let versions = self.engine.custody.since(&place.secret, place.previous.as_deref()).await?;
            let unknown = |version: &VersionInfo| Some(&version.id) != place.version.as_ref();
            let mut of_others = Vec::new();
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
                } else {
                    of_others.push(version.id);
                }
            }
            others.push(of_others);
        }
        Ok((found, others))
    }

    /// Whatever was said of it before.
    async fn withhold(&mut self, own: &Own) -> Result<(), Halt> {
        let (secret, mark) = (self.target(own.target)?.secret.clone(), VersionMark::from(&own.version));
        self.change(&[secret], |standings, rotation, now| {
            rotation.targets.get_mut(own.target).ok_or_else(misfit)?.answered(&own.digest);
            standings.iter_mut().for_each(|standing| standing.withhold(&mark, now));
            Ok(())
        })
        .await
    }

    fn target(&self, target: usize) -> Result<&Target, Failure> {
        self.rotation.targets.get(target).ok_or_else(misfit)
    }

    /// For the user whose turn it is: the one that no version is for which somebody may use.
    async fn credential(&self, settings: &TwoUsers) -> Result<(SecretBytes, Users), Failure> {
        let mut turns = Turns::new(&settings.users);
        for target in &self.rotation.targets {
            let mut versions = self.engine.custody.since(&target.secret, None).await?;
            versions.truncate(LOOKED_THROUGH);
            for version in versions {
                let is_current = Some(&version.id) == target.previous.as_ref();
                let value = match self.engine.custody.value(&target.secret, &version.id).await {
                    Ok(value) => value,
                    Err(failure) if is_shut(failure.reason()) => {
                        turns.out_of_use(is_current);
                        continue;
                    }
                    Err(failure) => return Err(failure),
                };
                let name = target.secret.version(VersionId::Exact(version.id));
                turns.in_use(Credential::read(&value).as_ref(), is_current, &name.to_string())?;
            }
        }
        let (user, old) = turns.whose_next()?;
        let (user, old) = (user.to_owned(), old.map(str::to_owned));
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

pub(super) fn is_shut(reason: Reason) -> bool {
    matches!(reason, Reason::VersionNotFound | Reason::VersionDisabled | Reason::VersionDestroyed)
}

pub(super) fn misfit() -> Failure {
    Failure::new(Reason::Internal, "a rotation's record does not fit its strategy; report this")
}
