//! How a rotation that came to nothing is undone, and how an old login ends.

use std::collections::HashSet;

use super::attempt::{Attempt, Halt};
use super::own::is_shut;
use super::record::{Stage, Users};
use super::steps::LOOK_INTERVAL;
use crate::clock::Timestamp;
use crate::error::Failure;
use crate::rotation::strategies::postgres::Credential;

impl Attempt<'_> {
    /// Its versions are disabled and never become current. The old one is still good. Or else: when to look again.
    pub(super) async fn settle(&mut self) -> Result<Option<Timestamp>, Halt> {
        self.begin_anew().await?;
        if !self.rotation.has_been(Stage::Current) {
            self.disable_strays().await?;
            for target in &self.rotation.targets {
                if let Some(version) = &target.version
                    && !self.rotation.digests.is_empty()
                {
                    self.engine.custody.disable(&target.secret, version).await?;
                }
            }
            if let Some(users) = self.rotation.users.clone()
                && self.rotation.has_been(Stage::Created)
            {
                self.expel(&users, &users.new).await?;
            }
        }
        if let Some(look_again) = self.late_additions().await? {
            return Ok(Some(look_again));
        }
        let secrets = self.rotation.secrets();
        self.change(&secrets, |standings, rotation, now| {
            rotation.settled = true;
            standings.iter_mut().for_each(|standing| standing.end(now));
            Ok(())
        })
        .await?;
        Ok(None)
    }

    /// For as long as a store may yet add what it gave no answer to, the secrets stay in the rotation's hands: nobody
    /// else would know the version for what it is. When to look again.
    pub(super) async fn late_additions(&mut self) -> Result<Option<Timestamp>, Halt> {
        let now = self.engine.clock.now();
        let Some(until) = self.rotation.awaits(now) else { return Ok(None) };
        self.disable_strays().await?;
        Ok(self.rotation.awaits(now).map(|_| until.min(now.plus(LOOK_INTERVAL))))
    }

    /// What an attempt stored that did not live to say so.
    pub(super) async fn disable_strays(&mut self) -> Result<(), Halt> {
        for (secret, version) in self.withhold_strays().await? {
            self.engine.custody.disable(&secret, &version).await?;
        }
        Ok(())
    }

    /// Unless the current version of a target is for that user: somebody put it back into use.
    pub(super) async fn expel(&self, users: &Users, user: &str) -> Result<(), Failure> {
        if self.in_use().await?.contains(user) {
            tracing::warn!(rotation = %self.rotation.name, user, "a database user is in use again and keeps its login");
            return Ok(());
        }
        self.logins(users)?.expel(user).await
    }

    /// The users that the targets' current versions are for. One that is out of use is for nobody.
    pub(super) async fn in_use(&self) -> Result<HashSet<String>, Failure> {
        let mut users = HashSet::new();
        for target in &self.rotation.targets {
            let standing = self.engine.log.standing(&target.secret).await?;
            let Some(current) = standing.as_ref().and_then(|stored| stored.record.current()) else { continue };
            match self.engine.custody.value(&target.secret, &current.id).await {
                Ok(value) => users.extend(Credential::read(&value).map(|credential| credential.user)),
                Err(failure) if is_shut(failure.reason()) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(users)
    }
}
