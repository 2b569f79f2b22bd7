//! Reads and changes secrets for callers who hold a permit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::SecretBytes;
use super::cache::{Cache, CacheAccount, Demand, Freshness, Kept, Load, Source, Supply, Want, is_answer};
use super::errands::Errands;
use super::latest::Latest;
use super::newest::{Confirmed, Newest};
use super::pins::{Guarded, Pins, Word};
use super::provider::{Fetched, Labels, Listing, Page, Provider, SecretInfo, Switched, VersionInfo};
use super::revision::{Revisions, Turn};
use crate::admission::{Action, Permit, Resource};
use crate::clock::{SharedClock, Timestamp};
use crate::error::{Failure, Reason};
use crate::names::{SecretName, StoreName, VersionId};
use crate::state::Position;

/// All configured stores, behind one cache.
#[derive(Clone)]
pub struct Secrets(Arc<Parts>);

struct Parts {
    stores: BTreeMap<StoreName, Store>,
    values: Arc<Cache<VersionId, Arc<Fetched>>>,
    labels: Arc<Cache<(), Labels>>,
    confirmed: Arc<Confirmed>,
    pins: Arc<Pins>,
    revisions: Arc<Revisions>,
    errands: Errands,
}

struct Store {
    provider: Arc<dyn Provider>,
    freshness: Freshness,
    /// Apart, since providers count and grant values and metadata apart.
    values: Arc<Supply>,
    labels: Arc<Supply>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheSettings {
    /// In bytes, of all that is kept.
    pub size: u64,
    /// What is not named here is not kept.
    pub stores: BTreeMap<StoreName, Freshness>,
}

/// A secret that was read. Its payload leaves only against an audit receipt.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "holds a secret")]
pub struct Read {
    pub secret: SecretName,
    pub fetched: Arc<Fetched>,
    pub source: Source,
    pub loaded: Timestamp,
    pub fresh_until: Timestamp,
    /// How much of the rotation log was known here when the load began.
    pub position: Option<Position>,
}

#[allow(missing_debug_implementations, reason = "holds a secret")]
pub struct Refreshed {
    pub read: Read,
    /// Whether the value is another one than was kept; `None` where none was.
    pub changed: Option<bool>,
}

/// The part of the cache that is for labels: they are small, and policy waits for them.
const LABELS_SHARE: u64 = 8;
/// Of a thousand versions each.
const MAX_VERSION_PAGES: usize = 25;

impl Secrets {
    pub fn new(
        providers: BTreeMap<StoreName, Arc<dyn Provider>>,
        settings: &CacheSettings,
        guarded: Option<Guarded>,
        clock: &SharedClock,
    ) -> Self {
        let revisions = Arc::new(Revisions::default());
        let errands = Errands::default();
        let stores: BTreeMap<_, _> = providers
            .into_iter()
            .map(|(name, provider)| {
                let freshness = settings.stores.get(&name).copied().unwrap_or_default();
                let values = Supply::new(freshness.stale, clock);
                let labels = Supply::new(stale_labels(&freshness), clock);
                (name, Store { provider, freshness, values, labels })
            })
            .collect();
        let longest = |life: fn(&Freshness) -> Duration| {
            stores.values().map(|store| life(&store.freshness)).max().unwrap_or_default()
        };
        let for_labels = settings.size / LABELS_SHARE;
        let values = Cache::new(
            settings.size - for_labels,
            longest(|freshness| freshness.latest.max(freshness.pinned) + freshness.stale),
            Arc::clone(&revisions),
            errands.clone(),
            Arc::clone(clock),
        );
        let labels = Cache::new(
            for_labels,
            longest(|freshness| freshness.labels + stale_labels(freshness)),
            Arc::clone(&revisions),
            errands.clone(),
            Arc::clone(clock),
        );
        let (confirmed, pins) = (Arc::new(Confirmed::new()), Arc::new(Pins::new(guarded)));
        Self(Arc::new(Parts { stores, values, labels, confirmed, pins, revisions, errands }))
    }

    /// A secret's labels for policy to look at, before anything is permitted; `None` where it does not exist.
    pub async fn labels(&self, secret: &SecretName) -> Result<Option<Labels>, Failure> {
        let Ok(store) = self.store_of(secret) else {
            return Ok(None);
        };
        let want = Want { secret, key: &(), supply: &store.labels, life: store.freshness.labels };
        match self.0.labels.read(want, Demand::default(), || describing(&store.provider, secret)).await {
            Ok(found) => Ok(Some(found.value)),
            Err(failure) if failure.reason() == Reason::SecretNotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// What is wrong with a read whether or not the secret is there. Nothing is asked of its store.
    pub fn check_read(&self, secret: &SecretName, version: &VersionId, demand: Demand<'_>) -> Result<(), Failure> {
        self.0.revisions.check(demand.min_revision, demand.epoch)?;
        self.check_version(secret, version)
    }

    pub fn check_version(&self, secret: &SecretName, version: &VersionId) -> Result<(), Failure> {
        self.provider(secret)?.check_version(secret, version)
    }

    pub fn check_addition(&self, secret: &SecretName, payload: &SecretBytes) -> Result<(), Failure> {
        self.provider(secret)?.check_payload(payload.expose())
    }

    /// What whoever wants to create the secret hears of it where its store cannot.
    pub fn check_creation(&self, secret: &SecretName) -> Result<(), Failure> {
        self.provider(secret)?.check_creation(secret)
    }

    pub async fn get(&self, permit: &Permit, version: &VersionId, demand: Demand<'_>) -> Result<Read, Failure> {
        self.read(permitted_to(permit, &[Action::GetSecret])?, version, demand).await
    }

    pub(super) async fn read(
        &self,
        secret: &SecretName,
        version: &VersionId,
        demand: Demand<'_>,
    ) -> Result<Read, Failure> {
        self.0.revisions.check(demand.min_revision, demand.epoch)?;
        let store = self.store_of(secret)?;
        let life = match version {
            VersionId::Latest => store.freshness.latest,
            VersionId::Exact(_) => store.freshness.pinned,
        };
        let want = Want { secret, key: version, supply: &store.values, life };
        let found = self.0.values.read(want, demand, || self.fetching(&store.provider, secret, version)).await?;
        Ok(Read {
            secret: secret.clone(),
            fetched: found.value,
            source: found.source,
            loaded: found.loaded,
            fresh_until: found.fresh_until,
            position: found.position,
        })
    }

    /// Loads one version anew and drops what was kept of the secret, unless the store cannot answer: in an outage
    /// that is all there is.
    pub async fn refresh(&self, permit: &Permit, version: &VersionId) -> Result<Refreshed, Failure> {
        self.reload(permitted_to(permit, &[Action::RefreshSecret])?, version).await
    }

    pub(super) async fn reload(&self, secret: &SecretName, version: &VersionId) -> Result<Refreshed, Failure> {
        let kept = self.0.values.peek(secret, version);
        let turn = self.0.revisions.advance();
        let read = self.read(secret, version, Demand { max_age: Some(Duration::ZERO), ..Demand::default() }).await;
        if read.as_ref().map_or_else(|failure| is_answer(failure.reason()), |_| true) {
            self.drop_before(secret, turn);
        }
        let read = read?;
        let changed = kept.map(|kept| kept.payload.expose() != read.fetched.payload.expose());
        Ok(Refreshed { read, changed })
    }

    /// Something happened to the secret, perhaps the addition of a version. Once this has returned, no reader gets what
    /// was loaded before.
    pub fn invalidate(&self, secret: &SecretName, added: Option<Newest>) {
        self.recall(secret);
        if let Some(added) = added {
            self.0.confirmed.confirm(secret, added);
        }
        // A load that begins from here on knows of the change, by its stamp and by what was confirmed.
        self.drop_before(secret, self.0.revisions.advance());
    }

    /// For the rotation log: what it says of `latest`. Whether that is news; what was loaded before is then to be
    /// invalidated.
    pub fn heed(&self, secret: &SecretName, word: Word) -> bool {
        self.0.pins.set(secret, word)
    }

    pub fn word(&self, secret: &SecretName) -> Word {
        self.0.pins.of(secret)
    }

    /// Whether loads of the secret would look at this.
    pub fn keeps(&self, secret: &SecretName, word: &Word) -> bool {
        self.0.pins.keep(secret, word)
    }

    /// For the rotation log: changes may have been missed, of any secret. This is what it says now, of those secrets
    /// whose word is kept.
    pub fn begin_anew(&self, words: HashMap<SecretName, Word>) {
        self.0.pins.replace(words);
        self.0.revisions.reach(None);
        let turn = self.0.revisions.advance();
        self.0.values.invalidate_all(turn);
        self.0.labels.invalidate_all(turn);
    }

    /// For the rotation log: what happened up to this position was told.
    pub fn reach(&self, position: Position) {
        self.0.revisions.reach(Some(position));
    }

    fn drop_before(&self, secret: &SecretName, turn: Turn) {
        self.recall(secret);
        self.0.values.invalidate(secret, turn);
        self.0.labels.invalidate(secret, turn);
    }

    /// What readers were given stays confirmed when it is dropped.
    fn recall(&self, secret: &SecretName) {
        if let Some(read) = self.0.values.peek(secret, &VersionId::Latest) {
            self.0.confirmed.recall(secret, Newest::from(&read.version));
        }
    }

    /// Of the values and of the labels.
    pub fn cache_accounts(&self) -> [CacheAccount; 2] {
        [self.0.values.account(), self.0.labels.account()]
    }

    /// Frees what may not be served any more. To be called now and then.
    pub fn tidy(&self) {
        self.0.values.tidy();
        self.0.labels.tidy();
    }

    /// Secrets of the store that were read here not long ago.
    pub fn read_lately(&self, store: &StoreName) -> Vec<SecretName> {
        let kept = self.0.values.kept();
        kept.filter(|secret| secret.store() == store.as_str()).map(|secret| (*secret).clone()).collect()
    }

    /// Breaks off loads and waits for changes. Whoever still waits for a load is told to go elsewhere.
    pub async fn stop(&self) {
        self.0.errands.end().await;
        self.0.values.abandon();
        self.0.labels.abandon();
    }

    pub async fn list(&self, permit: &Permit, page: Page) -> Result<Listing<SecretInfo>, Failure> {
        match permit.resource() {
            Resource::Store(store) => self.store(store)?.list(page).await,
            Resource::Secret(..) | Resource::DatabaseRole(_) | Resource::Broker => Err(misfit()),
        }
    }

    pub async fn versions(&self, permit: &Permit, page: Page) -> Result<Listing<VersionInfo>, Failure> {
        let secret = permitted_secret(permit)?;
        self.provider(secret)?.versions(secret, page).await.map_err(in_our_words(secret))
    }

    pub async fn describe(&self, permit: &Permit) -> Result<SecretInfo, Failure> {
        let secret = permitted_secret(permit)?;
        self.provider(secret)?.describe(secret).await.map_err(in_our_words(secret))
    }

    pub async fn version(&self, permit: &Permit, id: &str) -> Result<VersionInfo, Failure> {
        let secret = permitted_secret(permit)?;
        let mut page = Page { size: 1000, token: None };
        for _ in 0..MAX_VERSION_PAGES {
            let listing = self.provider(secret)?.versions(secret, page).await.map_err(in_our_words(secret))?;
            if let Some(found) = listing.items.into_iter().find(|version| &*version.id == id) {
                return Ok(found);
            }
            let Some(next) = listing.next else {
                let message = format!("{secret} has no version {id}; ListSecretVersions shows those it has");
                return Err(Failure::new(Reason::VersionNotFound, message));
            };
            page = Page { size: 1000, token: Some(next) };
        }
        let message =
            format!("{secret} has too many versions to look through for {id}; make the change without validate_only");
        Err(Failure::new(Reason::UnsupportedByStore, message))
    }

    pub async fn add(
        &self,
        permit: &Permit,
        payload: SecretBytes,
        creation: Option<Labels>,
    ) -> Result<VersionInfo, Failure> {
        self.add_to(permitted_to(permit, &[Action::AddSecretVersion])?.clone(), payload, creation).await
    }

    pub(super) async fn add_to(
        &self,
        secret: SecretName,
        payload: SecretBytes,
        creation: Option<Labels>,
    ) -> Result<VersionInfo, Failure> {
        let provider = Arc::clone(self.provider(&secret)?);
        let this = self.clone();
        self.carry_out(async move {
            let added = provider.add(&secret, payload, creation).await;
            if let Ok(version) = &added {
                this.0.confirmed.confirm(&secret, version.into());
            }
            this.concluded(&secret, added)
        })
        .await
    }

    pub async fn set_enabled(&self, permit: &Permit, version: &VersionId, enabled: bool) -> Result<Switched, Failure> {
        let switch = [Action::EnableSecretVersion, Action::DisableSecretVersion];
        self.switch(permitted_to(permit, &switch)?.clone(), version.clone(), enabled).await
    }

    pub(super) async fn switch(
        &self,
        secret: SecretName,
        version: VersionId,
        enabled: bool,
    ) -> Result<Switched, Failure> {
        let provider = Arc::clone(self.provider(&secret)?);
        let this = self.clone();
        self.carry_out(async move {
            let changed = provider.set_enabled(&secret, &version, enabled).await;
            this.concluded(&secret, changed)
        })
        .await
    }

    /// The newest version, where it holds this value; for whoever tried to add it and did not hear how that ended.
    pub async fn newest_if_it_is(&self, permit: &Permit, value: &SecretBytes) -> Result<Option<VersionInfo>, Failure> {
        let now = Demand { max_age: Some(Duration::ZERO), ..Demand::default() };
        match self.read(permitted_to(permit, &[Action::AddSecretVersion])?, &VersionId::Latest, now).await {
            Ok(read) => {
                let is_same = verify_slices_are_equal(read.fetched.payload.expose(), value.expose()).is_ok();
                Ok(is_same.then(|| read.fetched.version.clone()))
            }
            Err(failure) if is_answer(failure.reason()) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// A change goes on when its caller leaves: only so is it known what has become of it.
    async fn carry_out<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        self.0.errands.carry_out(change).await.unwrap_or_else(|_| {
            let message = "the change ended in a defect of the broker; look at the secret before you repeat it";
            Err(Failure::new(Reason::Internal, message))
        })
    }

    /// Also where nothing changed now: what is kept may be from before a change that nobody told of.
    fn concluded<T>(&self, secret: &SecretName, outcome: Result<T, Failure>) -> Result<T, Failure> {
        if outcome.as_ref().err().is_none_or(|failure| !was_not_made(failure.reason())) {
            self.invalidate(secret, None);
        }
        outcome.map_err(in_our_words(secret))
    }

    fn fetching(&self, provider: &Arc<dyn Provider>, secret: &SecretName, version: &VersionId) -> Load<Arc<Fetched>> {
        let (provider, secret, version) = (Arc::clone(provider), secret.clone(), version.clone());
        let (confirmed, values) = (Arc::clone(&self.0.confirmed), Arc::clone(&self.0.values));
        let pins = Arc::clone(&self.0.pins);
        Box::pin(async move {
            let read = || values.peek(&secret, &VersionId::Latest).map(|read| Newest::from(&read.version));
            let fetched = match &version {
                VersionId::Exact(_) => provider.fetch(&secret, &version).await,
                VersionId::Latest => {
                    let (pins, confirmed) = (&*pins, &*confirmed);
                    Latest { provider: &*provider, secret: &secret, pins, confirmed, read: read() }.fetch().await
                }
            };
            // A refusal may drop it from the cache, and must not bring back the version before it.
            if fetched.is_err()
                && let Some(read) = read()
            {
                confirmed.recall(&secret, read);
            }
            fetched.map(Arc::new).map_err(in_our_words(&secret))
        })
    }

    fn store_of(&self, secret: &SecretName) -> Result<&Store, Failure> {
        let store = self.0.stores.get(secret.store()).ok_or_else(|| no_such_secret(secret))?;
        store
            .provider
            .check_name(secret)
            .map_err(|error| Failure::bad_field(Reason::InvalidName, "name", error.to_string()))?;
        Ok(store)
    }

    pub(super) fn provider(&self, secret: &SecretName) -> Result<&Arc<dyn Provider>, Failure> {
        self.store_of(secret).map(|store| &store.provider)
    }

    fn store(&self, store: &StoreName) -> Result<&Arc<dyn Provider>, Failure> {
        self.0.stores.get(store).map(|store| &store.provider).ok_or_else(|| no_store(store.as_str()))
    }
}

/// Policy must not go by old labels for as long as readers go by old values: whoever wears out the metadata budget could
/// keep a label that was taken away in force.
fn stale_labels(freshness: &Freshness) -> Duration {
    freshness.stale.min(freshness.labels)
}

fn describing(provider: &Arc<dyn Provider>, secret: &SecretName) -> Load<Labels> {
    let (provider, secret) = (Arc::clone(provider), secret.clone());
    Box::pin(async move { provider.describe(&secret).await.map(|info| info.labels) })
}

/// Whether a change that failed for this reason has surely not happened.
pub(crate) fn was_not_made(reason: Reason) -> bool {
    !matches!(reason, Reason::ProviderUnavailable | Reason::DeadlineExceeded | Reason::Internal | Reason::Unspecified)
}

impl Kept for Arc<Fetched> {
    type Key = VersionId;

    fn weight(&self) -> usize {
        let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        self.payload.len() + self.version.id.len() + text(&self.version.content_type)
    }

    fn expires(&self) -> Option<Timestamp> {
        self.version.expires
    }

    fn is_pinned_by(&self, key: &VersionId) -> bool {
        matches!(key, VersionId::Exact(id) if *id == self.version.id)
    }
}

impl Kept for Labels {
    type Key = ();

    fn weight(&self) -> usize {
        self.iter().map(|(key, value)| key.len() + value.len() + 64).sum()
    }

    fn expires(&self) -> Option<Timestamp> {
        None
    }

    fn is_pinned_by(&self, (): &()) -> bool {
        true
    }
}

/// What whoever may ask hears of a secret that is not there, or that its labels hide from them.
pub fn no_such_secret(secret: &SecretName) -> Failure {
    Failure::new(Reason::SecretNotFound, format!("{secret} does not exist; ListSecrets shows what there is for you"))
}

/// Every store says it alike, so that hidden and absent cannot be told apart by the words.
fn in_our_words(secret: &SecretName) -> impl FnOnce(Failure) -> Failure {
    move |failure| if failure.reason() == Reason::SecretNotFound { no_such_secret(secret) } else { failure }
}

fn no_store(store: &str) -> Failure {
    let message =
        format!("{store} is not configured at this broker; check the name, or add [stores] to its configuration");
    Failure::new(Reason::SecretNotFound, message)
}

/// A permit to see what there is gives no value and changes nothing.
fn permitted_to<'a>(permit: &'a Permit, actions: &[Action]) -> Result<&'a SecretName, Failure> {
    if actions.contains(&permit.action()) { permitted_secret(permit) } else { Err(misfit()) }
}

pub(crate) fn permitted_secret(permit: &Permit) -> Result<&SecretName, Failure> {
    match permit.resource() {
        Resource::Secret(secret, _) => Ok(secret),
        Resource::Store(_) | Resource::DatabaseRole(_) | Resource::Broker => Err(misfit()),
    }
}

fn misfit() -> Failure {
    Failure::new(Reason::Internal, "the permit is for something else; report this")
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.stores.keys()).finish()
    }
}
