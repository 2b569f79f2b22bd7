//! A look for oneself: what no event told, at the pace that a small part of the metadata budget allows.
//!
//! Looked at are the secrets that have a standing, which is whatever changed under the broker's eyes, and those that were
//! read through this replica or are held by a gateway, which get one by it. So the cost is that of the secrets in use, however many a project has.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::intake::Account;
use crate::clock::{SharedClock, Timestamp};
use crate::error::{Failure, Reason};
use crate::names::{SecretName, StoreName};
use crate::rotation::{Fact, Log, Observation, Origin, Standing};
use crate::secrets::{Page, Provider, Secrets, VersionInfo, VersionState};
use crate::state::{Leadership, ListPage};

/// Of the metadata budget, one part in so many.
const SHARE: u32 = 10;
/// Versions of a secret that are compared, the newest first.
const VERSIONS: usize = 100;
/// Of a secret seen for the first time, how many enabled versions are put on record, so that their end is noticed.
const FOLLOWED: usize = 8;
/// In one round; what is beyond it has its turn in none.
const MOST_SECRETS: usize = 100_000;
/// As Key Vault itself warns.
const NEAR: Duration = Duration::from_hours(30 * 24);
/// Where nothing can be looked at.
const PAUSE: Duration = Duration::from_secs(10);

/// Of one store.
pub struct Poll {
    pub store: StoreName,
    pub provider: Arc<dyn Provider>,
    pub interval: Duration,
    /// Between two requests at least.
    pub gap: Duration,
    pub secrets: Secrets,
    /// Those that a gateway holds, whoever reads them.
    pub held: Vec<SecretName>,
    pub log: Log,
    pub leadership: Leadership,
    pub clock: SharedClock,
    pub account: Arc<Polled>,
}

/// How the looking goes.
#[derive(Debug, Default)]
pub struct Polled(Mutex<Account>);

impl Poll {
    /// The time between two requests that keeps to the share of a budget.
    pub fn gap(limit: u32, window: Duration) -> Duration {
        window / (limit / SHARE).max(1)
    }

    pub async fn run(self) {
        loop {
            match self.round().await {
                Ok(0) => sleep(self.interval).await,
                Ok(_) => {}
                Err(failure) => {
                    self.account.failed(&self.store, failure);
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Every secret once, spread over the interval; how many there were.
    async fn round(&self) -> Result<usize, Failure> {
        let due = self.due().await?;
        let pace = pace(self.interval, self.gap, due.len());
        for secret in &due {
            sleep(pace).await;
            let looked = self.look(secret).await;
            match looked {
                Ok(()) => self.account.answered(self.clock.now()),
                // It may be this secret only.
                Err(failure) => self.account.failed(&self.store, failure),
            }
        }
        Ok(due.len())
    }

    /// One replica looks after what all of them know of; each after what it alone has read.
    async fn due(&self) -> Result<Vec<SecretName>, Failure> {
        let mut known = Vec::new();
        let mut page = ListPage { after: None, size: ListPage::MAX_SIZE };
        while known.len() < MOST_SECRETS {
            let found = self.log.standings(Some(&self.store), page.clone()).await?;
            known.extend(found.records.into_iter().map(|stored| stored.record));
            match found.next {
                Some(next) => page.after = Some(next),
                None => break,
            }
        }
        let leads = self.leadership.term().fence.is_some();
        let mut due = self.secrets.read_lately(&self.store);
        let unread: Vec<_> = self.held.iter().filter(|secret| leads && !due.contains(secret)).cloned().collect();
        due.extend(unread);
        due.retain(|secret| known.binary_search_by(|standing: &Standing| standing.secret().cmp(secret)).is_err());
        if leads {
            let living = known.iter().filter(|standing| !standing.is_deleted());
            due.extend(living.map(|standing| standing.secret().clone()));
        }
        Ok(due)
    }

    async fn look(&self, secret: &SecretName) -> Result<(), Failure> {
        // Before the store is asked: what an event tells of a later moment is not undone by an older answer.
        let asked = self.clock.now();
        let listed = match self.provider.versions(secret, Page { size: VERSIONS, token: None }).await {
            Ok(listed) => Some(listed.items),
            Err(failure) if failure.reason() == Reason::SecretNotFound => None,
            Err(failure) => return Err(failure),
        };
        let standing = self.log.standing(secret).await?.map(|stored| stored.record);
        for fact in news(standing.as_ref(), listed.as_deref(), asked) {
            let observation = Observation { fact, origin: Origin::Poll, happened: Some(asked) };
            if self.log.observe(secret, &observation).await?.changed && standing.is_some() {
                tracing::info!(%secret, fact = ?observation.fact, "found what no event had told");
            }
        }
        Ok(())
    }
}

fn pace(interval: Duration, gap: Duration, secrets: usize) -> Duration {
    gap.max(interval / u32::try_from(secrets).unwrap_or(u32::MAX).max(1))
}

/// What the store has and the standing does not. `None` listed: there is no such secret.
fn news(standing: Option<&Standing>, listed: Option<&[VersionInfo]>, now: Timestamp) -> Vec<Fact> {
    let Some(listed) = listed else {
        let is_known = standing.is_some_and(|standing| !standing.is_deleted());
        return if is_known { vec![Fact::SecretDeleted] } else { Vec::new() };
    };
    let known = |version: &VersionInfo| standing.and_then(|standing| standing.version(&version.id));
    let mut facts = Vec::new();
    let mut followed = 0;
    for (place, version) in listed.iter().enumerate() {
        let enabled = version.state == VersionState::Enabled;
        match known(version) {
            Some(known) if known.state != version.state => facts.push(switched(version)),
            Some(_) => {}
            // The newest counts in any state, older ones while somebody may use them.
            None if place == 0 || (enabled && followed < FOLLOWED) => facts.push(Fact::VersionAdded(version.into())),
            None => {}
        }
        followed += usize::from(enabled);
    }
    if let Some(newest) = listed.first()
        && newest.expires.is_some_and(|end| end <= now.plus(NEAR))
    {
        facts.push(Fact::NearExpiry(Arc::clone(&newest.id)));
    }
    facts
}

fn switched(version: &VersionInfo) -> Fact {
    let id = Arc::clone(&version.id);
    match version.state {
        VersionState::Enabled => Fact::VersionEnabled(id),
        VersionState::Disabled => Fact::VersionDisabled(id),
        VersionState::Destroyed => Fact::VersionDestroyed(id),
    }
}

impl Polled {
    pub fn account(&self) -> Account {
        self.lock().clone()
    }

    fn answered(&self, now: Timestamp) {
        let mut account = self.lock();
        account.received = Some(now);
        account.failure = None;
    }

    fn failed(&self, store: &StoreName, failure: Failure) {
        let mut account = self.lock();
        if account.failure.is_none() {
            tracing::warn!(%store, cause = failure.cause(), "secrets cannot be looked at for changes: {failure}");
        }
        account.failure = Some(failure);
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Poll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poll").field("store", &self.store).field("interval", &self.interval).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::rotation::VersionMark;

    const NOW: Timestamp = Timestamp::from_secs(1_000_000_000);

    fn version(id: u32, state: VersionState) -> VersionInfo {
        let created = Some(Timestamp::from_secs(u64::from(id)));
        let id = id.to_string().into();
        VersionInfo { id, state, created, not_before: None, expires: None, content_type: None }
    }

    fn enabled(id: u32) -> VersionInfo {
        version(id, VersionState::Enabled)
    }

    fn added(version: &VersionInfo) -> Fact {
        Fact::VersionAdded(VersionMark::from(version))
    }

    /// What is known once all of these were found.
    fn knowing(versions: &[VersionInfo]) -> Standing {
        let mut standing = Standing::new(SecretName::parse("stores/gcp/secrets/db").unwrap());
        for fact in news(None, Some(versions), NOW) {
            standing.observe(&Observation { fact, origin: Origin::Poll, happened: Some(NOW) }, NOW);
        }
        standing
    }

    #[test]
    fn a_secret_seen_for_the_first_time_is_followed_to_a_bound() {
        let mut listed: Vec<_> = (1..=40).rev().map(enabled).collect();
        listed[0].state = VersionState::Disabled;
        let news = news(None, Some(&listed), NOW);
        assert_eq!(news.len(), 1 + FOLLOWED);
        assert_eq!(news[0], added(&listed[0]), "the newest in any state");
        assert_eq!(news[1], added(&listed[1]));
    }

    #[test]
    fn finds_what_was_added_switched_and_destroyed_and_nothing_twice() {
        let listed = [enabled(3), enabled(2), enabled(1)];
        let standing = knowing(&listed);
        assert_eq!(news(Some(&standing), Some(&listed), NOW), []);
        let listed = [
            enabled(5),
            version(4, VersionState::Destroyed),
            enabled(3),
            version(2, VersionState::Disabled),
            version(1, VersionState::Destroyed),
        ];
        let expected = [added(&listed[0]), Fact::VersionDisabled("2".into()), Fact::VersionDestroyed("1".into())];
        assert_eq!(news(Some(&standing), Some(&listed), NOW), expected);
    }

    #[test]
    fn a_secret_that_is_gone_is_deleted_once() {
        let mut standing = knowing(&[enabled(1)]);
        assert_eq!(news(Some(&standing), None, NOW), [Fact::SecretDeleted]);
        let later = NOW.plus(Duration::from_secs(1));
        let deletion = Observation { fact: Fact::SecretDeleted, origin: Origin::Poll, happened: Some(later) };
        standing.observe(&deletion, later);
        assert_eq!(news(Some(&standing), None, later), []);
        assert_eq!(news(None, None, later), [], "nobody knew of it");
    }

    #[test]
    fn the_newest_version_s_end_is_told_as_early_as_its_vault_would() {
        let ending = |end| VersionInfo { expires: Some(end), ..enabled(1) };
        let soon = [ending(NOW.plus(NEAR))];
        let standing = knowing(&[enabled(1)]);
        assert_eq!(news(Some(&standing), Some(&soon), NOW), [Fact::NearExpiry("1".into())]);
        let later = [ending(NOW.plus(NEAR + Duration::from_secs(1)))];
        assert_eq!(news(Some(&standing), Some(&later), NOW), []);
    }

    #[test]
    fn the_pace_keeps_to_a_tenth_of_the_budget_and_spreads_a_round_over_the_interval() {
        let (interval, minute) = (Duration::from_mins(15), Duration::from_mins(1));
        assert_eq!(Poll::gap(300, minute), Duration::from_secs(2));
        assert_eq!(Poll::gap(5, minute), minute, "never none at all");
        for (secrets, expected) in [(1, 900.0), (90, 10.0), (450, 2.0), (100_000, 2.0)] {
            assert_eq!(pace(interval, Poll::gap(300, minute), secrets).as_secs_f64(), expected, "{secrets}");
        }
    }
}
