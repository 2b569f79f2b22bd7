//! How a rotation that came to nothing is undone, and how an old login ends.

use super::attempt::{Attempt, Halt};
use super::record::{Stage, Users};
use crate::error::Failure;
use crate::rotation::strategies::postgres::Credential;

impl Attempt<'_> {
    /// Its versions are disabled and never become current. The old one is still good.
    pub(super) async fn settle(&mut self) -> Result<(), Halt> {
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
        let secrets = self.rotation.secrets();
        self.change(&secrets, |standings, rotation, now| {
            rotation.settled = true;
            standings.iter_mut().for_each(|standing| standing.end(now));
            Ok(())
        })
        .await
    }

    /// What an attempt stored that did not live to say so.
    pub(super) async fn disable_strays(&mut self) -> Result<(), Halt> {
        for (secret, version) in self.withhold_strays().await? {
            self.engine.custody.disable(&secret, &version).await?;
        }
        Ok(())
    }

    /// Unless the secret's current version is for that user: somebody put it back into use.
    pub(super) async fn expel(&self, users: &Users, user: &str) -> Result<(), Failure> {
        if self.in_use().await?.as_deref() == Some(user) {
            tracing::warn!(rotation = %self.rotation.name, user, "a database user is in use again and keeps its login");
            return Ok(());
        }
        self.logins(users)?.expel(user).await
    }

    /// The user that the current version of the first target is for.
    pub(super) async fn in_use(&self) -> Result<Option<String>, Failure> {
        let Some(target) = self.rotation.targets.first() else { return Ok(None) };
        let standing = self.engine.log.standing(&target.secret).await?;
        let Some(current) = standing.as_ref().and_then(|stored| stored.record.current()) else { return Ok(None) };
        let value = self.engine.custody.value(&target.secret, &current.id).await?;
        Ok(Credential::read(&value).map(|credential| credential.user))
    }
}
