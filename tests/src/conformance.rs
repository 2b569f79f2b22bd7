//! What every provider of secrets has to do alike, whatever keeps them: one suite, run against each.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise ends the test that runs the suite")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keyferry_broker::error::{Detail, Failure, Reason};
use keyferry_broker::names::{SecretName, StoreName, VersionId};
use keyferry_broker::secrets::{
    Fetched, Labels, Listing, Page, Provider, SecretBytes, SecretInfo, VersionInfo, VersionState,
};

/// All names that the suite makes begin so; the store must not hold any of them yet.
const PREFIX: &str = "conformance-";
/// More pages than any list here can honestly have.
const MAX_PAGES: usize = 10_000;

/// Panics at the first promise of [`Provider`] that is broken. For a store that creates its secrets itself.
pub async fn conforms(provider: &dyn Provider, store: &StoreName) {
    let never = async |secret: &SecretName| panic!("{secret} cannot be created through the provider");
    conforms_given(provider, store, never).await;
}

/// The same for a store that does not: `create` makes a secret there, to which versions can then be added.
pub async fn conforms_given(provider: &dyn Provider, store: &StoreName, create: impl AsyncFn(&SecretName)) {
    let suite = Suite { provider, store, create, made: RefCell::default() };
    suite.creates_a_secret_only_when_asked().await;
    suite.tells_absent_secrets_from_absent_versions().await;
    suite.reads_by_version_and_latest().await;
    suite.refuses_a_disabled_version_and_does_not_fall_back().await;
    suite.enables_and_disables_idempotently().await;
    suite.reports_states_and_times().await;
    suite.keeps_a_payload_whole_or_refuses_it().await;
    suite.lists_secrets_in_order_and_pages_without_gap_or_repeat().await;
    suite.lists_versions_newest_first_and_pages_without_gap_or_repeat().await;
    suite.refuses_names_beyond_its_grammar().await;
}

struct Suite<'a, C> {
    provider: &'a dyn Provider,
    store: &'a StoreName,
    create: C,
    /// Versions that `create` made, as some stores know no secret without one.
    made: RefCell<BTreeSet<Arc<str>>>,
}

impl<C: AsyncFn(&SecretName)> Suite<'_, C> {
    async fn creates_a_secret_only_when_asked(&self) {
        let secret = self.secret("created");
        self.expect(Reason::SecretNotFound, self.provider.add(&secret, bytes(b"x"), None).await);
        self.expect(Reason::SecretNotFound, self.provider.describe(&secret).await);

        let labels = Labels::new(BTreeMap::from([("team".to_owned(), "payments".to_owned())]));
        match self.provider.add(&secret, bytes(b"first"), Some(labels.clone())).await {
            Err(failure) if failure.reason() == Reason::UnsupportedByStore => {
                self.expect(Reason::SecretNotFound, self.provider.describe(&secret).await);
            }
            created => {
                self.assert_reads(&secret, &VersionId::Latest, &created.unwrap(), b"first").await;
                let second = self.provider.add(&secret, bytes(b"second"), None).await.unwrap();
                self.assert_reads(&secret, &VersionId::Latest, &second, b"second").await;
                let third = self.provider.add(&secret, bytes(b"third"), Some(Labels::default())).await.unwrap();
                self.assert_reads(&secret, &VersionId::Latest, &third, b"third").await;
                assert_eq!(self.provider.describe(&secret).await.unwrap().labels, labels, "only a creation labels");
            }
        }
    }

    async fn tells_absent_secrets_from_absent_versions(&self) {
        let absent = self.secret("absent");
        self.expect(Reason::SecretNotFound, self.provider.fetch(&absent, &VersionId::Latest).await);
        self.expect(Reason::SecretNotFound, self.provider.describe(&absent).await);
        self.expect(Reason::SecretNotFound, self.provider.versions(&absent, page(10, None)).await);
        // Well-formed for a provider that counts, and for one whose ids are 32 hexadecimal digits. A version that no
        // secret of the store can have is absent without a look at the secret.
        let versions = ["4000000", "0123456789abcdef0123456789abcdef"].map(|id| VersionId::exact(id).unwrap());
        let mut told = BTreeSet::new();
        for version in &versions {
            let refused = self.provider.fetch(&absent, version).await.err().map(|failure| failure.reason());
            for enabled in [true, false] {
                let changed = self.provider.set_enabled(&absent, version, enabled).await;
                assert_eq!(changed.err().map(|failure| failure.reason()), refused, "{version:?}");
            }
            told.insert(refused.unwrap() as i32);
        }
        let expected = [Reason::SecretNotFound as i32, Reason::VersionNotFound as i32];
        assert!(told.contains(&expected[0]) && told.iter().all(|reason| expected.contains(reason)), "{told:?}");

        let present = self.secret("present");
        self.add(&present, b"value").await;
        for version in versions {
            self.expect(Reason::VersionNotFound, self.provider.fetch(&present, &version).await);
            self.expect(Reason::VersionNotFound, self.provider.set_enabled(&present, &version, false).await);
        }
    }

    async fn reads_by_version_and_latest(&self) {
        let secret = self.secret("read");
        let first = self.add(&secret, b"first").await;
        let second = self.add(&secret, b"second, and longer").await;
        assert_ne!(first.id, second.id, "two versions share an id");
        for _ in 0..2 {
            self.assert_reads(&secret, &exact(&first), &first, b"first").await;
            self.assert_reads(&secret, &exact(&second), &second, b"second, and longer").await;
            self.assert_reads(&secret, &VersionId::Latest, &second, b"second, and longer").await;
        }
        let again = self.add(&secret, b"first").await;
        assert!(again.id != first.id && again.id != second.id, "the same value is a new version all the same");
    }

    async fn refuses_a_disabled_version_and_does_not_fall_back(&self) {
        let secret = self.secret("disabled");
        let first = self.add(&secret, b"first").await;
        let second = self.add(&secret, b"second").await;
        self.set(&secret, &second, false).await;
        self.expect(Reason::VersionDisabled, self.provider.fetch(&secret, &exact(&second)).await);
        self.expect(Reason::VersionDisabled, self.provider.fetch(&secret, &VersionId::Latest).await);
        self.assert_reads(&secret, &exact(&first), &first, b"first").await;

        let second = self.set(&secret, &second, true).await;
        self.assert_reads(&secret, &VersionId::Latest, &second, b"second").await;

        self.set(&secret, &first, false).await;
        self.expect(Reason::VersionDisabled, self.provider.fetch(&secret, &exact(&first)).await);
        self.assert_reads(&secret, &VersionId::Latest, &second, b"second").await;
    }

    async fn enables_and_disables_idempotently(&self) {
        let secret = self.secret("idempotent");
        let added = self.add(&secret, b"value").await;
        for (enabled, state) in [
            (true, VersionState::Enabled),
            (false, VersionState::Disabled),
            (false, VersionState::Disabled),
            (true, VersionState::Enabled),
            (true, VersionState::Enabled),
        ] {
            let version = self.set(&secret, &added, enabled).await;
            assert_eq!(version, VersionInfo { state, ..added.clone() });
            assert_eq!(self.all_versions(&secret, 10).await, [version]);
        }
        self.assert_reads(&secret, &VersionId::Latest, &added, b"value").await;
    }

    async fn reports_states_and_times(&self) {
        let secret = self.secret("states");
        let mut added = Vec::new();
        for value in [b"1", b"2", b"3"] {
            added.push(self.add(&secret, value).await);
        }
        assert!(added.iter().all(|version| version.state == VersionState::Enabled), "a new version is enabled");
        assert!(added.is_sorted_by_key(|version| version.created), "later versions are not older");
        added[1] = self.set(&secret, &added[1], false).await;

        let info = self.provider.describe(&secret).await.unwrap();
        assert_eq!(info.name, secret);
        assert!(info.created.is_some() && info.created <= added[0].created, "a secret is as old as its versions");
        added.reverse();
        assert_eq!(self.all_versions(&secret, 10).await, added, "a list says what the mutations answered");
        let listed = self.all_secrets(100).await.into_iter().find(|listed| listed.name == secret).unwrap();
        // Key Vault's list does not tell when a secret was created.
        assert!(listed.created.is_none() || listed.created == info.created);
        assert_eq!(listed.labels, info.labels, "a list says what `describe` says");
    }

    /// Providers bound payloads differently. None may cut or alter one.
    async fn keeps_a_payload_whole_or_refuses_it(&self) {
        let every_byte: Vec<u8> = (0..=u8::MAX).collect();
        let payloads: [(&str, Vec<u8>); 6] = [
            ("empty", Vec::new()),
            ("space", b" \r\n\t ".to_vec()),
            ("text", "naïve пароль 🔑\0".into()),
            ("binary", every_byte.clone()),
            ("half", b"0123456789abcdef".repeat(1_500)),
            ("full", every_byte.repeat(256)),
        ];
        for (id, payload) in payloads {
            let secret = self.secret(&format!("payload-{id}"));
            match self.try_add(&secret, &payload).await {
                Ok(version) => self.assert_reads(&secret, &exact(&version), &version, &payload).await,
                Err(failure) => self.assert_bad_payload(&failure),
            }
        }
        let secret = self.secret("payload-oversize");
        self.assert_bad_payload(&self.try_add(&secret, &[b'x'; 65_537]).await.unwrap_err());
        match self.provider.versions(&secret, page(10, None)).await {
            Ok(_) => assert_eq!(self.all_versions(&secret, 10).await, [], "a refused payload became a version"),
            Err(failure) => assert_eq!(failure.reason(), Reason::SecretNotFound, "{failure}"),
        }
    }

    async fn lists_secrets_in_order_and_pages_without_gap_or_repeat(&self) {
        let mut expected = BTreeSet::new();
        for number in [3, 11, 1, 20, 2, 10, 0] {
            let secret = self.secret(&format!("page-{number}"));
            self.add(&secret, b"x").await;
            expected.insert(secret);
        }
        for size in [1, 3, 7, 1_000] {
            let listed: Vec<SecretName> = self.all_secrets(size).await.into_iter().map(|info| info.name).collect();
            assert!(listed.is_sorted_by(|a, b| a < b), "by name, and none twice, in pages of {size}");
            assert!(expected.iter().all(|name| listed.contains(name)), "none is skipped, in pages of {size}");
        }
    }

    async fn lists_versions_newest_first_and_pages_without_gap_or_repeat(&self) {
        let secret = self.secret("versions");
        let mut expected = Vec::new();
        for value in 0..11_u8 {
            expected.insert(0, self.add(&secret, &[b'a' + value]).await);
        }
        // A neighbour in the order of names must not leak in.
        self.add(&self.secret("versions-"), b"x").await;
        for size in [1, 5, 11, 1_000] {
            assert_eq!(self.all_versions(&secret, size).await, expected, "in pages of {size}");
        }
    }

    async fn refuses_names_beyond_its_grammar(&self) {
        let of_length = |length: usize| "x".repeat(length - PREFIX.len());
        for id in ["Case", "9", "hyphen-", "under_score", &of_length(127), &of_length(128), &of_length(255)] {
            let secret = self.secret(id);
            let read = self.provider.fetch(&secret, &VersionId::Latest).await;
            if self.provider.check_name(&secret).is_ok() {
                self.expect(Reason::SecretNotFound, read);
            } else {
                self.expect(Reason::InvalidName, read);
                self.expect(Reason::InvalidName, self.provider.describe(&secret).await);
                self.expect(Reason::InvalidName, self.provider.add(&secret, bytes(b"x"), None).await);
            }
        }
    }

    fn secret(&self, id: &str) -> SecretName {
        self.store.secret(&format!("{PREFIX}{id}")).unwrap()
    }

    async fn add(&self, secret: &SecretName, payload: &[u8]) -> VersionInfo {
        self.try_add(secret, payload).await.unwrap()
    }

    /// Creates the secret on the way, by whichever side can.
    async fn try_add(&self, secret: &SecretName, payload: &[u8]) -> Result<VersionInfo, Failure> {
        match self.provider.add(secret, bytes(payload), Some(Labels::default())).await {
            Err(failure) if failure.reason() == Reason::UnsupportedByStore => {
                if self.provider.describe(secret).await.is_err() {
                    (self.create)(secret).await;
                    let made = self.provider.versions(secret, page(10, None)).await.unwrap().items;
                    self.made.borrow_mut().extend(made.into_iter().map(|version| version.id));
                }
                self.provider.add(secret, bytes(payload), None).await
            }
            added => added,
        }
    }

    async fn set(&self, secret: &SecretName, version: &VersionInfo, enabled: bool) -> VersionInfo {
        self.provider.set_enabled(secret, &exact(version), enabled).await.unwrap().version
    }

    async fn assert_reads(&self, secret: &SecretName, asked: &VersionId, version: &VersionInfo, payload: &[u8]) {
        let fetched = self.provider.fetch(secret, asked).await.unwrap();
        // Not every provider tells the time of creation with a value.
        let created = fetched.version.created.or(version.created);
        assert_eq!(VersionInfo { created, ..fetched.version.clone() }, *version, "{secret} {asked:?}");
        assert!(is_payload(&fetched, payload), "{secret} {asked:?} has another payload");
    }

    fn assert_bad_payload(&self, failure: &Failure) {
        assert_eq!(failure.reason(), Reason::InvalidArgument, "{failure}");
        assert!(
            matches!(failure.detail(), Detail::BadField { field, .. } if field == "payload"),
            "{failure} names no field"
        );
    }

    fn expect<T>(&self, reason: Reason, result: Result<T, Failure>) {
        match result {
            Ok(_) => panic!("succeeded where {reason:?} was due"),
            Err(failure) => assert_eq!(failure.reason(), reason, "{failure}"),
        }
    }

    /// The suite's own secrets: the store may hold others.
    async fn all_secrets(&self, size: usize) -> Vec<SecretInfo> {
        let (mut all, mut token) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let listing = self.provider.list(page(size, token)).await.unwrap();
            token = take(listing, size, &mut all);
            if token.is_none() {
                all.retain(|info: &SecretInfo| info.name.id().starts_with(PREFIX));
                return all;
            }
        }
        panic!("a list of secrets never ends");
    }

    async fn all_versions(&self, secret: &SecretName, size: usize) -> Vec<VersionInfo> {
        let (mut all, mut token) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let listing = self.provider.versions(secret, page(size, token)).await.unwrap();
            token = take(listing, size, &mut all);
            if token.is_none() {
                all.retain(|version: &VersionInfo| !self.made.borrow().contains(&version.id));
                return all;
            }
        }
        panic!("a list of versions never ends");
    }
}

fn take<T>(listing: Listing<T>, size: usize, all: &mut Vec<T>) -> Option<String> {
    assert!(listing.items.len() <= size, "{} items in a page of {size}", listing.items.len());
    all.extend(listing.items);
    listing.next
}

fn page(size: usize, token: Option<String>) -> Page {
    Page { size, token }
}

fn bytes(payload: &[u8]) -> SecretBytes {
    SecretBytes::new(payload.to_vec())
}

fn exact(version: &VersionInfo) -> VersionId {
    VersionId::exact(&version.id).unwrap()
}

/// By length and checksum: the bytes themselves leave only against an audit receipt, in tests too.
fn is_payload(fetched: &Fetched, payload: &[u8]) -> bool {
    fetched.payload.len() == payload.len() && fetched.crc32c == crc32c::crc32c(payload)
}
