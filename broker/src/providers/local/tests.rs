#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::{FutureExt, join_all};
use redb::backends::FileBackend;
use redb::{Database, ReadableTable, StorageBackend, TableDefinition};
use tempfile::TempDir;

use super::*;
use crate::clock::{Clock, SystemClock};
use crate::error::Detail;

const PAYLOADS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("payloads");

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        LocalKey::generate_file(&place.key()).unwrap();
        place
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("local.key")
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("local.redb")
    }

    fn try_open(&self) -> Result<LocalStore, OpenError> {
        LocalStore::open(store(), &self.file(), &LocalKey::read_file(&self.key()).unwrap(), Arc::new(SystemClock))
    }

    fn open(&self) -> LocalStore {
        self.try_open().unwrap()
    }

    fn refusal(&self) -> String {
        self.try_open().err().unwrap().to_string()
    }
}

fn store() -> StoreName {
    StoreName::from_id("local").unwrap()
}

fn secret(id: &str) -> SecretName {
    store().secret(id).unwrap()
}

fn bytes(text: &[u8]) -> SecretBytes {
    SecretBytes::new(text.to_vec())
}

async fn add(store: &LocalStore, id: &str, payload: &[u8]) -> VersionInfo {
    store.add(&secret(id), bytes(payload), Some(Labels::default())).await.unwrap()
}

async fn read(store: &LocalStore, id: &str, version: &str) -> Result<Vec<u8>, Reason> {
    let version = if version == "latest" { VersionId::Latest } else { VersionId::exact(version).unwrap() };
    let fetched = store.fetch(&secret(id), &version).await.map_err(|failure| failure.reason())?;
    assert_eq!(fetched.crc32c, crc32c::crc32c(fetched.payload.expose()));
    Ok(fetched.payload.expose().to_vec())
}

#[derive(Debug)]
struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(1_700_000_000)
    }

    fn monotonic(&self) -> Instant {
        SystemClock.monotonic()
    }
}

#[tokio::test]
async fn leaves_no_payload_on_disk_in_any_common_form() {
    const CANARY: &[u8] = b"canary-5fd1c9a27be04c1e-canary-5fd1c9a27be04c1e";
    let place = Place::new();
    let store = place.open();
    add(&store, "a", CANARY).await;
    add(&store, "b", &CANARY.repeat(1_000)).await;
    store.fetch(&secret("a"), &VersionId::Latest).await.unwrap();
    drop(store);

    let hex: String = CANARY.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![CANARY.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()];
    // Base64 has three forms, one for each place where the canary may begin; its ends depend on the neighbours.
    for shift in 0..3 {
        let text = STANDARD.encode([&vec![0; shift], CANARY].concat());
        forms.push(text.as_bytes()[4..text.len() - 4].to_vec());
    }
    for entry in fs::read_dir(place.dir.path()).unwrap() {
        let content = fs::read(entry.unwrap().path()).unwrap();
        for form in &forms {
            assert!(!content.windows(form.len()).any(|window| window == form), "{}", String::from_utf8_lossy(form));
        }
    }
    let content = fs::read(place.file()).unwrap();
    assert!(content.windows(7).any(|window| window == b"secrets"), "the scan reads the file");
}

#[tokio::test]
async fn refuses_a_record_put_in_the_place_of_another() {
    let place = Place::new();
    let store = place.open();
    for (id, payload) in [("a", "a1"), ("a", "a2"), ("b", "b1")] {
        add(&store, id, payload.as_bytes()).await;
    }
    drop(store);

    let swap = |one: (&str, u64), other: (&str, u64)| {
        let database = Database::create(place.file()).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut payloads = transaction.open_table(PAYLOADS).unwrap();
            let left = payloads.get(one).unwrap().unwrap().value().to_vec();
            let right = payloads.get(other).unwrap().unwrap().value().to_vec();
            payloads.insert(one, &right[..]).unwrap();
            payloads.insert(other, &left[..]).unwrap();
        }
        transaction.commit().unwrap();
    };
    swap(("a", 1), ("b", 1));
    assert_eq!(read(&place.open(), "a", "1").await, Err(Reason::PayloadCorrupt));
    assert_eq!(read(&place.open(), "b", "1").await, Err(Reason::PayloadCorrupt));
    assert_eq!(read(&place.open(), "a", "2").await.unwrap(), b"a2", "its neighbours stay readable");
    swap(("a", 1), ("b", 1));
    swap(("a", 1), ("a", 2));
    assert_eq!(read(&place.open(), "a", "1").await, Err(Reason::PayloadCorrupt));
    assert_eq!(read(&place.open(), "a", "latest").await, Err(Reason::PayloadCorrupt));
    assert_eq!(read(&place.open(), "b", "1").await.unwrap(), b"b1");
}

#[tokio::test]
async fn refuses_another_key_and_says_so() {
    let place = Place::new();
    add(&place.open(), "a", b"x").await;
    let kept = fs::read(place.key()).unwrap();
    fs::remove_file(place.key()).unwrap();
    LocalKey::generate_file(&place.key()).unwrap();
    let text = place.refusal();
    assert!(text.contains("was written with another key") && text.contains("put back the key file"), "{text}");

    fs::write(place.key(), kept).unwrap();
    assert_eq!(read(&place.open(), "a", "1").await.unwrap(), b"x");
}

#[tokio::test]
async fn keeps_everything_over_a_reopen() {
    let place = Place::new();
    let store = place.open();
    add(&store, "a", b"one").await;
    add(&store, "a", b"two").await;
    store.set_enabled(&secret("a"), &VersionId::exact("1").unwrap(), false).await.unwrap();
    let labels = BTreeMap::from([("team".to_owned(), "pay".to_owned())]);
    store.label(&secret("a"), labels.clone()).await.unwrap();
    let before = (
        store.describe(&secret("a")).await.unwrap(),
        store.versions(&secret("a"), Page { size: 10, token: None }).await.unwrap(),
    );
    drop(store);

    let store = place.open();
    let after = (
        store.describe(&secret("a")).await.unwrap(),
        store.versions(&secret("a"), Page { size: 10, token: None }).await.unwrap(),
    );
    assert_eq!(before, after);
    assert_eq!(*after.0.labels, labels);
    assert_eq!(read(&store, "a", "1").await, Err(Reason::VersionDisabled));
    assert_eq!(read(&store, "a", "2").await.unwrap(), b"two");
    assert_eq!(&*add(&store, "a", b"three").await.id, "3");
}

#[tokio::test]
async fn has_every_answered_version_after_a_crash() {
    let place = Place::new();
    let store = place.open();
    for round in 1..=20_u8 {
        add(&store, "a", &[round; 3_000]).await;
        // What the kernel has now is what a killed process leaves: the file was never closed.
        let crashed = Place::new();
        fs::copy(place.key(), crashed.key()).unwrap();
        fs::copy(place.file(), crashed.file()).unwrap();
        let crashed = crashed.open();
        for version in 1..=round {
            assert_eq!(read(&crashed, "a", &version.to_string()).await.unwrap(), [version; 3_000]);
        }
        assert_eq!(*add(&crashed, "a", b"next").await.id, *(round + 1).to_string());
    }
}

#[tokio::test]
async fn lists_a_thousand_secrets_in_order() {
    let place = Place::new();
    let store = place.open();
    let mut expected = Vec::new();
    for number in 0..1_000 {
        let name = secret(&format!("secret-{}", number * 7 % 1_000));
        store.add(&name, bytes(b"x"), Some(Labels::default())).await.unwrap();
        expected.push(name);
    }
    expected.sort();
    let all = store.list(Page { size: 1_000, token: None }).await.unwrap();
    assert_eq!(all.items.iter().map(|info| info.name.clone()).collect::<Vec<_>>(), expected);
    assert_eq!(all.next, None);

    let (mut paged, mut token) = (Vec::new(), None);
    loop {
        let page = store.list(Page { size: 99, token }).await.unwrap();
        paged.extend(page.items);
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(paged, all.items);
}

#[tokio::test]
async fn bounds_every_page() {
    let place = Place::new();
    let store = place.open();
    add(&store, "a", b"").await;
    add(&store, "b", b"").await;
    assert_eq!(store.list(Page { size: 0, token: None }).await.unwrap().items.len(), 1);
    assert_eq!(store.list(Page { size: usize::MAX, token: None }).await.unwrap().items.len(), 2);
    let garbage = store.versions(&secret("a"), Page { size: 1, token: Some("x".into()) }).await.unwrap_err();
    assert_eq!(garbage.reason(), Reason::InvalidPageToken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_concurrent_versions_without_gap_or_repeat() {
    let place = Place::new();
    let store = place.open();
    let name = secret("a");
    let added =
        join_all((0..100_u8).map(|n| store.add(&name, SecretBytes::new(vec![n]), Some(Labels::default())))).await;
    let mut numbers: Vec<u64> = added.into_iter().map(|version| version.unwrap().id.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
    let mut payloads = HashSet::new();
    for number in numbers {
        payloads.insert(read(&store, "a", &number.to_string()).await.unwrap());
    }
    assert_eq!(payloads.len(), 100);
}

#[tokio::test]
async fn an_add_whose_caller_left_is_whole_or_absent() {
    let place = Place::new();
    let store = place.open();
    for _ in 0..20 {
        let name = secret("a");
        let _ = store.add(&name, bytes(b"x"), Some(Labels::default())).now_or_never();
    }
    let next: u64 = add(&store, "a", b"last").await.id.parse().unwrap();
    for number in 1..next {
        assert_eq!(read(&store, "a", &number.to_string()).await.unwrap(), b"x");
    }
    assert_eq!(read(&store, "a", "latest").await.unwrap(), b"last");
}

#[tokio::test]
async fn does_not_fall_back_when_the_newest_is_disabled() {
    let place = Place::new();
    let store = place.open();
    add(&store, "a", b"old").await;
    add(&store, "a", b"new").await;
    store.set_enabled(&secret("a"), &VersionId::exact("2").unwrap(), false).await.unwrap();
    assert_eq!(read(&store, "a", "latest").await, Err(Reason::VersionDisabled));
    assert_eq!(read(&store, "a", "1").await.unwrap(), b"old");
}

#[tokio::test]
async fn knows_a_version_by_one_name_only() {
    let place = Place::new();
    let store = place.open();
    add(&store, "a", b"x").await;
    for version in ["01", "0", "2", "18446744073709551615", "18446744073709551616", "1e0", "a"] {
        assert_eq!(read(&store, "a", version).await, Err(Reason::VersionNotFound), "{version}");
    }
}

#[tokio::test]
async fn takes_payloads_of_0_to_65536_bytes() {
    let place = Place::new();
    let store = place.open();
    for length in [0, 1, MAX_PAYLOAD] {
        add(&store, "a", &vec![0xa5; length]).await;
        assert_eq!(read(&store, "a", "latest").await.unwrap(), vec![0xa5; length]);
    }
    let refused =
        store.add(&secret("a"), SecretBytes::new(vec![0; MAX_PAYLOAD + 1]), Some(Labels::default())).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::InvalidArgument);
    assert!(matches!(refused.detail(), Detail::BadField { field, .. } if field == "payload"));
    assert_eq!(store.versions(&secret("a"), Page { size: 10, token: None }).await.unwrap().items.len(), 3);
}

#[tokio::test]
async fn bounds_labels_and_keeps_them_for_known_secrets_only() {
    let place = Place::new();
    let store = place.open();
    let label = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let absent = store.label(&secret("a"), label("k", "v")).await.unwrap_err();
    assert_eq!(absent.reason(), Reason::SecretNotFound);
    add(&store, "a", b"x").await;
    let many = (0..=MAX_LABELS).map(|n| (n.to_string(), String::new())).collect();
    for labels in [label("", "v"), label(&"k".repeat(64), "v"), label("k", &"v".repeat(64)), many] {
        assert_eq!(store.label(&secret("a"), labels).await.unwrap_err().reason(), Reason::InvalidArgument);
    }
    let refused = store.add(&secret("b"), bytes(b"x"), Some(Labels::new(label("", "v")))).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::InvalidArgument);
    assert_eq!(*store.label(&secret("a"), label("k", "v")).await.unwrap().labels, label("k", "v"));
    add(&store, "a", b"y").await;
    assert_eq!(*store.describe(&secret("a")).await.unwrap().labels, label("k", "v"), "a new version keeps them");
}

#[tokio::test]
async fn takes_its_times_from_the_clock_that_it_is_given() {
    let place = Place::new();
    let key = LocalKey::read_file(&place.key()).unwrap();
    let store = LocalStore::open(store(), &place.file(), &key, Arc::new(StoppedClock)).unwrap();
    let added = add(&store, "a", b"x").await;
    assert_eq!(added.created, Some(StoppedClock.now()));
    assert_eq!(store.describe(&secret("a")).await.unwrap().created, Some(StoppedClock.now()));
}

#[tokio::test]
async fn refuses_a_file_that_another_holder_has_open() {
    let place = Place::new();
    let holder = place.open();
    let text = place.refusal();
    assert!(text.contains("open in another process"), "{text}");
    drop(holder);
    place.open();
}

#[tokio::test]
async fn makes_its_file_private_and_refuses_one_that_is_not() {
    let place = Place::new();
    drop(place.open());
    assert_eq!(fs::metadata(place.file()).unwrap().mode() & 0o777, 0o600);
    fs::set_permissions(place.file(), Permissions::from_mode(0o644)).unwrap();
    let text = place.refusal();
    assert!(text.contains("chmod 600"), "{text}");
}

#[tokio::test]
async fn refuses_a_file_that_is_no_store_and_leaves_it_alone() {
    for content in [&b"not a database"[..], &[0; 8_192]] {
        let place = Place::new();
        fs::write(place.file(), content).unwrap();
        fs::set_permissions(place.file(), Permissions::from_mode(0o600)).unwrap();
        let text = place.refusal();
        assert!(text.contains("is not a Keyferry store"), "{text}");
        assert!(fs::read(place.file()).unwrap() == content);
    }

    let place = Place::new();
    let database = Database::create(place.file()).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(PAYLOADS).unwrap();
    transaction.commit().unwrap();
    drop(database);
    fs::set_permissions(place.file(), Permissions::from_mode(0o600)).unwrap();
    let text = place.refusal();
    assert!(text.contains("is not a Keyferry store"), "{text}");
}

#[tokio::test]
async fn starts_over_in_an_empty_file_left_by_a_crash() {
    let place = Place::new();
    fs::write(place.file(), b"").unwrap();
    fs::set_permissions(place.file(), Permissions::from_mode(0o600)).unwrap();
    let store = place.open();
    add(&store, "a", b"x").await;
    assert_eq!(read(&store, "a", "1").await.unwrap(), b"x");
}

/// A disk that is full while the switch is on.
#[derive(Debug)]
struct FullDisk {
    file: FileBackend,
    full: Arc<AtomicBool>,
}

impl StorageBackend for FullDisk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write(offset, data)
    }
}

#[tokio::test]
async fn comes_back_by_itself_when_a_full_disk_has_room_again() {
    let place = Place::new();
    let full = Arc::new(AtomicBool::new(false));
    let (path, switch) = (place.file(), Arc::clone(&full));
    drop(place.open());
    let opener = move || {
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let disk = FullDisk { file: FileBackend::new(file).unwrap(), full: Arc::clone(&switch) };
        redb::Builder::new()
            .create_with_backend(disk)
            .map_err(|error| OpenError::Damaged(path.clone(), Box::new(error.into())))
    };
    let key = LocalKey::read_file(&place.key()).unwrap();
    let (file, sealer) = StoreFile::open_with(&place.file(), &key, Box::new(opener)).unwrap();
    let records = Arc::new(Records { file, sealer });
    let store =
        LocalStore { name: store(), clock: Arc::new(SystemClock), records, writer: Arc::new(Semaphore::new(1)) };
    add(&store, "a", b"before").await;

    full.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let failed = store.add(&secret("a"), bytes(b"lost"), Some(Labels::default())).await.unwrap_err();
        assert_eq!(failed.reason(), Reason::ProviderUnavailable);
        assert!(failed.cause().is_some());
    }
    full.store(false, Ordering::SeqCst);
    assert_eq!(read(&store, "a", "1").await.unwrap(), b"before");
    assert_eq!(&*add(&store, "a", b"after").await.id, "2");
    assert_eq!(read(&store, "a", "latest").await.unwrap(), b"after");
}
