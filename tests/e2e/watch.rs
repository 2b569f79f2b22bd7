//! Streams of rotations, as a subscriber meets them.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use keyferry_broker::clock::{Clock as _, SystemClock, Timestamp};
use keyferry_broker::names::{SecretName, VersionName};
use keyferry_broker::rotation::watch::{Cursor, Mark};
use keyferry_broker::rotation::{Fact, Observation, Origin, VersionMark};
use keyferry_broker::secrets::VersionState;
use keyferry_broker::state::Revision;
use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::watch_rotations_response::Response;
use keyferry_proto::v1::{
    AcknowledgeRotationRequest, AddSecretVersionRequest, AddSecretVersionResponse, GetSecretRequest, GetStatusRequest,
    ListSubscribersRequest, RotationBookmark, RotationEvent, RotationEventKind, RotationFilter, RotationResyncReason,
    RotationSnapshotEntry, Subscriber, WatchRotationsRequest, WatchRotationsResponse,
};
use keyferry_tests::broker::TestBroker;
use keyferry_tests::clock::ManualClock;
#[cfg(feature = "etcd")]
use keyferry_tests::etcd::EtcdCluster;
use keyferry_tests::pki::Issued;
use rcgen::{ExtendedKeyUsagePurpose, SanType, date_time_ymd};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::reload::eventually;
use crate::status::{reason, refused};

pub(crate) const EVERYTHING: &str = "stores/";

pub(crate) struct Watcher {
    stream: Streaming<WatchRotationsResponse>,
    /// Where it would resume.
    pub(crate) cursor: String,
}

pub(crate) fn prefix(prefix: &str) -> WatchRotationsRequest {
    let filter = RotationFilter { prefixes: vec![prefix.to_owned()], ..RotationFilter::default() };
    WatchRotationsRequest { filter: Some(filter), ..WatchRotationsRequest::default() }
}

pub(crate) fn named(secrets: &[&str]) -> WatchRotationsRequest {
    let names = secrets.iter().map(|secret| format!("stores/local/secrets/{secret}")).collect();
    let filter = RotationFilter { names, ..RotationFilter::default() };
    WatchRotationsRequest { filter: Some(filter), ..WatchRotationsRequest::default() }
}

pub(crate) async fn rotations(broker: &TestBroker, who: &Issued) -> RotationServiceClient<Channel> {
    RotationServiceClient::new(broker.channel(who).await)
}

impl Watcher {
    pub(crate) async fn open(
        broker: &TestBroker,
        who: &Issued,
        request: WatchRotationsRequest,
    ) -> Result<Self, Status> {
        Self::open_with(&mut rotations(broker, who).await, request).await
    }

    pub(crate) async fn open_with(
        client: &mut RotationServiceClient<Channel>,
        request: WatchRotationsRequest,
    ) -> Result<Self, Status> {
        let cursor = request.cursor.clone();
        let stream = client.watch_rotations(request).await?.into_inner();
        Ok(Self { stream, cursor })
    }

    async fn try_next(&mut self) -> Result<Response, Status> {
        let message = tokio::time::timeout(Duration::from_secs(30), self.stream.message()).await;
        let message = message.expect("a stream is silent for 20 seconds at most")?.expect("it ends with a status");
        if !message.cursor.is_empty() {
            self.cursor = message.cursor;
        }
        Ok(message.response.expect("every message tells something"))
    }

    async fn next(&mut self) -> Response {
        self.try_next().await.unwrap()
    }

    pub(crate) async fn past_bookmarks(&mut self) -> Response {
        loop {
            let told = self.next().await;
            if !matches!(told, Response::Bookmark(_)) {
                return told;
            }
        }
    }

    /// All parts of a snapshot, by secret.
    pub(crate) async fn snapshot(&mut self) -> Vec<RotationSnapshotEntry> {
        let mut entries = Vec::new();
        loop {
            let before = self.cursor.clone();
            let told = self.next().await;
            let Response::Snapshot(part) = told else { panic!("{told:?} within a snapshot") };
            entries.extend(part.entries);
            if part.complete {
                entries.sort_by(|one, other| one.secret.cmp(&other.secret));
                return entries;
            }
            assert_eq!(self.cursor, before, "an unfinished snapshot is no place to resume from");
        }
    }

    async fn batch(&mut self) -> Vec<RotationEvent> {
        let told = self.past_bookmarks().await;
        let Response::Events(batch) = told else { panic!("{told:?} where an event was due") };
        batch.events
    }

    pub(crate) async fn event(&mut self) -> RotationEvent {
        let mut batch = self.batch().await;
        assert_eq!(batch.len(), 1, "{batch:?}");
        batch.remove(0)
    }

    async fn bookmark(&mut self) -> RotationBookmark {
        let told = self.next().await;
        let Response::Bookmark(bookmark) = told else { panic!("{told:?} where a bookmark was due") };
        bookmark
    }

    pub(crate) async fn resync(&mut self) -> RotationResyncReason {
        let told = self.past_bookmarks().await;
        let Response::Resync(resync) = told else { panic!("{told:?} where a resync was due") };
        resync.reason()
    }

    /// How the stream ends, past bookmarks.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            match self.try_next().await {
                Ok(Response::Bookmark(_)) => {}
                Ok(other) => panic!("{other:?} where the end was due"),
                Err(end) => return end,
            }
        }
    }
}

pub(crate) fn secrets(entries: &[RotationSnapshotEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.secret.rsplit('/').next().unwrap()).collect()
}

pub(crate) fn version(secret: &str, number: u32) -> String {
    format!("stores/local/secrets/{secret}/versions/{number}")
}

/// Adds a version, creating the secret. Where in the log that is.
pub(crate) async fn change(broker: &TestBroker, secret: &str, payload: &[u8]) -> (i64, String) {
    told(broker, broker.put(secret, payload, &[]).await).await
}

async fn told(broker: &TestBroker, added: AddSecretVersionResponse) -> (i64, String) {
    let name = VersionName::parse(&added.version.unwrap().name).unwrap();
    let mark = VersionMark { id: name.version.as_str().into(), created: None, state: VersionState::Enabled };
    let observation = Observation { fact: Fact::VersionAdded(mark), origin: Origin::Operator, happened: None };
    let position = broker.broker.parts().rotation.observe(&name.secret, &observation).await.unwrap().position;
    (i64::try_from(position.revision.get()).unwrap(), position.epoch.to_string())
}

#[tokio::test]
async fn a_watch_begins_with_what_is_and_tells_each_change_whose_value_can_then_be_read() {
    let broker = TestBroker::start().await;
    change(&broker, "db", b"one").await;
    let mut watch = Watcher::open(&broker, &broker.client, prefix(EVERYTHING)).await.unwrap();
    let entries = watch.snapshot().await;
    assert_eq!((secrets(&entries), &*entries[0].version), (vec!["db"], &*version("db", 1)));
    assert!(entries[0].revision > 0);

    let added = change(&broker, "db", b"two").await;
    let event = watch.event().await;
    assert_eq!(event.kind(), RotationEventKind::VersionCurrent);
    assert_eq!((event.version, event.previous_version), (version("db", 2), version("db", 1)));
    assert_eq!((event.revision, &event.epoch), (added.0, &added.1));
    let read = GetSecretRequest {
        name: event.secret,
        min_revision: event.revision,
        epoch: event.epoch,
        ..GetSecretRequest::default()
    };
    let read = broker.secrets(&broker.client).await.get_secret(read).await.unwrap().into_inner();
    assert_eq!((&*read.payload, read.name), (&b"two"[..], version("db", 2)));
}

#[tokio::test]
async fn a_cursor_resumes_after_a_disconnect_and_after_a_restart_with_nothing_lost_or_told_twice() {
    let broker = TestBroker::start().await;
    change(&broker, "db", b"one").await;
    let mut watch = Watcher::open(&broker, &broker.client, named(&["db"])).await.unwrap();
    watch.snapshot().await;
    change(&broker, "db", b"two").await;
    watch.event().await;
    let cursor = watch.cursor.clone();
    drop(watch);
    change(&broker, "db", b"three").await;
    change(&broker, "other", b"one").await;
    change(&broker, "db", b"four").await;

    let resumed = WatchRotationsRequest { cursor, ..named(&["db"]) };
    let mut watch = Watcher::open(&broker, &broker.client, resumed.clone()).await.unwrap();
    assert_eq!(watch.event().await.version, version("db", 3));
    assert_eq!(watch.event().await.version, version("db", 4));
    drop(watch);

    let TestBroker { ca, broker, directory, .. } = broker;
    broker.stop().await;
    let broker = TestBroker::start_in(directory, ca, Arc::new(SystemClock)).await;
    let mut watch = Watcher::open(&broker, &broker.client, resumed).await.unwrap();
    assert_eq!(watch.event().await.version, version("db", 3));
    assert_eq!(watch.event().await.version, version("db", 4));
    change(&broker, "db", b"five").await;
    assert_eq!(watch.event().await.version, version("db", 5));
}

#[tokio::test]
async fn a_cursor_of_another_log_starts_over_and_one_that_no_broker_gave_is_refused() {
    let broker = TestBroker::start().await;
    change(&broker, "db", b"one").await;
    let mut watch = Watcher::open(&broker, &broker.client, prefix(EVERYTHING)).await.unwrap();
    watch.snapshot().await;
    let good = Cursor::decode(&watch.cursor).unwrap();
    let resume = |cursor: String| WatchRotationsRequest { cursor, ..prefix(EVERYTHING) };

    let garbage = ["x".to_owned(), format!("{}A", watch.cursor), watch.cursor[1..].to_owned(), "A".repeat(10_000)];
    let future = Cursor { revision: Revision::new(good.revision.get() + 1000), ..good }.encode();
    for cursor in garbage.into_iter().chain([future]) {
        let refusal = Watcher::open(&broker, &broker.client, resume(cursor)).await.err().unwrap();
        assert_eq!((refusal.code(), reason(&refusal)), (Code::InvalidArgument, "INVALID_CURSOR".to_owned()));
    }
    let foreign = Cursor { epoch: Mark::of("another epoch"), ..good };
    let outdated = Cursor { policies: Mark::of("other policies"), ..good };
    let told = [(foreign, RotationResyncReason::EpochChanged), (outdated, RotationResyncReason::PolicyChanged)];
    for (cursor, expected) in told {
        let mut watch = Watcher::open(&broker, &broker.client, resume(cursor.encode())).await.unwrap();
        assert_eq!(watch.resync().await, expected);
        assert_eq!(secrets(&watch.snapshot().await), ["db"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_older_than_what_the_log_keeps_starts_over() {
    const SINCE: usize = 1500;
    let broker = TestBroker::with("[state]\nhistory_changes = 1000\n", Arc::new(SystemClock)).await;
    change(&broker, "db", b"one").await;
    let mut watch = Watcher::open(&broker, &broker.client, named(&["db"])).await.unwrap();
    watch.snapshot().await;
    let cursor = watch.cursor.clone();
    drop(watch);
    let mut changes = JoinSet::new();
    for number in 0..SINCE {
        let log = broker.broker.parts().rotation.clone();
        let secret = SecretName::parse(&format!("stores/local/secrets/s{number}")).unwrap();
        let observation = Observation { fact: Fact::SecretUpdated, origin: Origin::Operator, happened: None };
        changes.spawn(async move { log.observe(&secret, &observation).await.unwrap() });
    }
    changes.join_all().await;

    let TestBroker { ca, broker, directory, .. } = broker;
    broker.stop().await;
    let broker = TestBroker::start_in(directory, ca, Arc::new(SystemClock)).await;
    let request = WatchRotationsRequest { cursor, ..named(&["db"]) };
    let mut watch = Watcher::open(&broker, &broker.client, request).await.unwrap();
    assert_eq!(watch.resync().await, RotationResyncReason::Compacted);
    assert_eq!(secrets(&watch.snapshot().await), ["db"]);
}

#[cfg(feature = "etcd")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_resumes_at_another_replica_and_a_newer_stream_there_ends_the_older_here() {
    let cluster = EtcdCluster::start(1);
    let replica = async |name: &str| {
        let configuration = format!("{}[node]\nname = \"{name}\"\n", cluster.configuration());
        let broker = TestBroker::with(&configuration, Arc::new(SystemClock)).await;
        eventually("the state is reached", async || broker.broker.parts().rotation.head().is_some()).await;
        broker
    };
    let (here, there) = (replica("here").await, replica("there").await);
    change(&here, "db", b"one").await;
    let as_gateway = || WatchRotationsRequest { subscriber: "gateway".to_owned(), ..named(&["db"]) };
    let mut watch = Watcher::open(&here, &here.client, as_gateway()).await.unwrap();
    watch.snapshot().await;
    change(&here, "db", b"two").await;
    watch.event().await;
    let request = WatchRotationsRequest { cursor: watch.cursor.clone(), ..as_gateway() };
    let mut elsewhere = Watcher::open(&there, &there.client, request).await.unwrap();
    assert_eq!(reason(&watch.end().await), "CONFLICT");
    change(&here, "db", b"three").await;
    let event = elsewhere.event().await;
    assert_eq!((event.version, event.previous_version), (version("db", 3), version("db", 2)));
    let listed = async || subscribers(&here, &here.operator, ListSubscribersRequest::default()).await.remove(0);
    eventually("each replica knows where it is", async || listed().await.node == "there").await;
}

#[tokio::test]
async fn a_filter_that_nobody_may_see_is_refused_by_name_and_silent_by_prefix_but_for_bookmarks() {
    let broker = TestBroker::start().await;
    change(&broker, "db", b"one").await;
    let stranger = broker.ca.client("stranger");
    for secret in ["db", "absent"] {
        let denied = Watcher::open(&broker, &stranger, named(&[secret])).await.err().unwrap();
        assert_eq!((denied.code(), reason(&denied)), (Code::PermissionDenied, "ACCESS_DENIED".to_owned()), "{secret}");
        assert_eq!(denied.message().replace(secret, "_"), denied.message().replace(secret, "_"));
    }
    let mut watch = Watcher::open(&broker, &stranger, prefix(EVERYTHING)).await.unwrap();
    assert_eq!(watch.snapshot().await, []);
    let added = change(&broker, "db", b"two").await;
    let since = SystemClock.monotonic();
    let bookmark = watch.bookmark().await;
    assert!(SystemClock.monotonic().duration_since(since) < Duration::from_secs(20));
    assert_eq!((bookmark.revision, bookmark.epoch), added, "it has come past what was hidden");
    assert!(!bookmark.draining && bookmark.credential_expire_time.is_none());
}

#[tokio::test]
async fn a_change_of_policy_starts_over_and_ends_a_watch_of_what_is_now_denied() {
    let broker = TestBroker::start().await;
    for secret in ["a", "b"] {
        change(&broker, secret, b"one").await;
    }
    let mut all = Watcher::open(&broker, &broker.client, prefix(EVERYTHING)).await.unwrap();
    assert_eq!(secrets(&all.snapshot().await), ["a", "b"]);
    let mut one = Watcher::open(&broker, &broker.client, named(&["a"])).await.unwrap();
    one.snapshot().await;

    let text = fs::read_to_string(broker.path().join("policy/test.cedar")).unwrap();
    let narrowed = text.replacen("resource)", r#"resource == Keyferry::Secret::"stores/local/secrets/b")"#, 1);
    let new = broker.path().join("policy/test.cedar.new");
    fs::write(&new, narrowed).unwrap();
    fs::rename(&new, broker.path().join("policy/test.cedar")).unwrap();

    assert_eq!(all.resync().await, RotationResyncReason::PolicyChanged);
    assert_eq!(secrets(&all.snapshot().await), ["b"]);
    assert_eq!(reason(&one.end().await), "ACCESS_DENIED");
    change(&broker, "a", b"two").await;
    change(&broker, "b", b"two").await;
    assert_eq!(all.event().await.version, version("b", 2), "what is denied is left out");
}

#[tokio::test]
async fn a_change_of_policy_that_shows_a_caller_nothing_else_goes_unnoticed() {
    let broker = TestBroker::start().await;
    for secret in ["a", "b"] {
        change(&broker, secret, b"one").await;
    }
    let requests = [prefix(EVERYTHING), named(&["a"])];
    let mut watches = Vec::new();
    for request in requests.clone() {
        let mut watch = Watcher::open(&broker, &broker.client, request).await.unwrap();
        watch.snapshot().await;
        watches.push(watch);
    }
    let others = r#"permit (principal, action, resource) when { principal has certificate && principal.certificate has spiffe && principal.certificate.spiffe.path == "/other" };"#;
    fs::write(broker.path().join("policy/other.cedar"), others).unwrap();
    eventually("it is in force", async || broker.broker.parts().gate.policies().current().len() == 3).await;
    change(&broker, "a", b"two").await;
    for watch in &mut watches {
        assert_eq!(watch.event().await.version, version("a", 2), "and nothing before it");
    }
    change(&broker, "a", b"three").await;
    for (watch, request) in watches.into_iter().zip(requests) {
        let request = WatchRotationsRequest { cursor: watch.cursor, ..request };
        let mut resumed = Watcher::open(&broker, &broker.client, request).await.unwrap();
        assert_eq!(resumed.event().await.version, version("a", 3), "its cursor is of the new policies");
    }
}

#[tokio::test]
async fn labels_decide_what_a_watch_by_labels_is_told() {
    let broker = TestBroker::start().await;
    for (secret, team) in [("mine", "pay"), ("theirs", "ship")] {
        told(&broker, broker.put(secret, b"one", &[("team", team)]).await).await;
    }
    let filter = RotationFilter { labels: [("team".to_owned(), "pay".to_owned())].into(), ..RotationFilter::default() };
    let request = WatchRotationsRequest { filter: Some(filter), ..WatchRotationsRequest::default() };
    let mut watch = Watcher::open(&broker, &broker.client, request).await.unwrap();
    assert_eq!(secrets(&watch.snapshot().await), ["mine"]);
    change(&broker, "theirs", b"two").await;
    change(&broker, "mine", b"two").await;
    assert_eq!(watch.event().await.version, version("mine", 2));
}

#[tokio::test]
async fn a_caller_is_warned_before_its_credential_ends_the_stream() {
    let clock = Arc::new(ManualClock::new());
    let broker = TestBroker::with("", Arc::clone(&clock) as _).await;
    let until_2100 = broker.ca.issue(|params| {
        params.subject_alt_names = vec![SanType::URI("spiffe://test.keyferry/client".try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = date_time_ymd(2100, 1, 1);
    });
    let mut watch = Watcher::open(&broker, &until_2100, prefix(EVERYTHING)).await.unwrap();
    watch.snapshot().await;
    let ends = Timestamp::from_secs(4_102_444_800);
    clock.set_forward(ends.since(clock.now()) - Duration::from_secs(300));
    assert!(watch.bookmark().await.credential_expire_time.is_none(), "not for a while yet");
    clock.set_forward(ends.since(clock.now()) - Duration::from_secs(30));
    let warning = watch.bookmark().await;
    let (expires, now) = (warning.credential_expire_time.unwrap(), warning.server_time.unwrap());
    assert!((0..=60).contains(&(expires.seconds - now.seconds)), "{expires} is soon after {now}");
    clock.set_forward(Duration::from_secs(60));
    let end = watch.end().await;
    assert_eq!((end.code(), reason(&end)), (Code::Unauthenticated, "CERTIFICATE_EXPIRED".to_owned()));
}

#[tokio::test]
async fn a_broker_that_stops_says_so_and_when_to_come_back() {
    let broker = TestBroker::start().await;
    let mut watch = Watcher::open(&broker, &broker.client, prefix(EVERYTHING)).await.unwrap();
    watch.snapshot().await;
    let stopping = tokio::spawn(broker.broker.stop());
    let bookmark = watch.bookmark().await;
    assert!(bookmark.draining && bookmark.reconnect_delay.unwrap().seconds < 5);
    let end = watch.try_next().await.unwrap_err();
    assert_eq!((end.code(), reason(&end)), (Code::Unavailable, "DRAINING".to_owned()));
    stopping.await.unwrap();
}

#[tokio::test]
async fn a_newer_stream_of_a_subscriber_ends_the_older_and_a_caller_has_so_many() {
    let quota = "[quota]\nchange_rate = 1000\nchange_burst = 1000\nstreams = 3\n";
    let broker = TestBroker::with(quota, Arc::new(SystemClock)).await;
    let as_gateway = || WatchRotationsRequest { subscriber: "gateway".to_owned(), ..prefix(EVERYTHING) };
    let mut older = Watcher::open(&broker, &broker.client, as_gateway()).await.unwrap();
    older.snapshot().await;
    let mut newer = Watcher::open(&broker, &broker.client, as_gateway()).await.unwrap();
    newer.snapshot().await;
    let end = older.end().await;
    assert_eq!((end.code(), reason(&end)), (Code::Aborted, "CONFLICT".to_owned()));

    let mut others = Vec::new();
    for _ in 0..2 {
        let mut other = Watcher::open(&broker, &broker.client, prefix(EVERYTHING)).await.unwrap();
        other.snapshot().await;
        others.push(other);
    }
    let refusal = Watcher::open(&broker, &broker.client, prefix(EVERYTHING)).await.err().unwrap();
    assert_eq!((refusal.code(), reason(&refusal)), (Code::ResourceExhausted, "STREAM_LIMIT_EXCEEDED".to_owned()));
    Watcher::open(&broker, &broker.operator, prefix(EVERYTHING)).await.expect("another caller has its own");
    others.pop();
    let freed = async || Watcher::open(&broker, &broker.client, prefix(EVERYTHING)).await.is_ok();
    eventually("the place of a stream that ended is free", freed).await;
    change(&broker, "db", b"one").await;
    assert_eq!(newer.event().await.version, version("db", 1), "who came before the limit is not touched");
}

#[tokio::test]
async fn ten_secrets_changed_together_reach_a_subscriber_that_asks_for_it_as_one_batch() {
    let broker = TestBroker::start().await;
    let window = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    let request = WatchRotationsRequest { coalesce_window: window, ..prefix(EVERYTHING) };
    let mut watch = Watcher::open(&broker, &broker.client, request).await.unwrap();
    watch.snapshot().await;
    for secret in 0..10 {
        change(&broker, &format!("s{secret}"), b"one").await;
    }
    let batch = watch.batch().await;
    let told: Vec<_> = batch.iter().map(|event| event.secret.rsplit('/').next().unwrap()).collect();
    assert_eq!(told, ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"]);
    assert!(batch.windows(2).all(|pair| pair[0].revision < pair[1].revision));
    change(&broker, "s0", b"two").await;
    assert_eq!(watch.event().await.version, version("s0", 2), "the next one opens another window");
}

#[tokio::test]
async fn a_request_that_selects_nothing_or_asks_for_the_impossible_is_refused() {
    let broker = TestBroker::start().await;
    let window = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let bad = [
        WatchRotationsRequest::default(),
        prefix("secrets/"),
        WatchRotationsRequest { subscriber: "No".to_owned(), ..prefix(EVERYTHING) },
        WatchRotationsRequest { coalesce_window: window(61), ..prefix(EVERYTHING) },
        WatchRotationsRequest { coalesce_window: window(-1), ..prefix(EVERYTHING) },
    ];
    for request in bad {
        let refusal = Watcher::open(&broker, &broker.client, request.clone()).await.err().unwrap();
        assert_eq!(
            (refusal.code(), reason(&refusal)),
            (Code::InvalidArgument, "INVALID_ARGUMENT".to_owned()),
            "{request:?}"
        );
    }
    let refusal = Watcher::open(&broker, &broker.client, named(&["../x"])).await.err().unwrap();
    assert_eq!(reason(&refusal), "INVALID_NAME");
}

async fn acknowledge(
    broker: &TestBroker,
    who: &Issued,
    versions: &[String],
    rejection: &str,
) -> Result<keyferry_proto::v1::AcknowledgeRotationResponse, Status> {
    let request = AcknowledgeRotationRequest {
        subscriber: "gateway".to_owned(),
        versions: versions.to_vec(),
        rejection: rejection.to_owned(),
    };
    Ok(rotations(broker, who).await.acknowledge_rotation(request).await?.into_inner())
}

async fn subscribers(broker: &TestBroker, who: &Issued, request: ListSubscribersRequest) -> Vec<Subscriber> {
    rotations(broker, who).await.list_subscribers(request).await.unwrap().into_inner().subscribers
}

#[tokio::test]
async fn operators_see_who_runs_which_version_before_and_after_a_restart() {
    let broker = TestBroker::start().await;
    change(&broker, "db", b"one").await;
    let request = WatchRotationsRequest { subscriber: "gateway".to_owned(), ..named(&["db"]) };
    let mut watch = Watcher::open(&broker, &broker.client, request).await.unwrap();
    watch.snapshot().await;
    let answer = acknowledge(&broker, &broker.client, &[version("db", 1)], "").await.unwrap();
    assert_eq!(
        (&*answer.versions[0].version, &*answer.versions[0].current_version),
        (&*version("db", 1), &*version("db", 1))
    );
    let behind = ListSubscribersRequest { behind_only: true, ..ListSubscribersRequest::default() };
    assert_eq!(subscribers(&broker, &broker.operator, behind.clone()).await, []);

    change(&broker, "db", b"two").await;
    let event = watch.event().await;
    let listed = subscribers(&broker, &broker.operator, behind.clone()).await.remove(0);
    assert_eq!((&*listed.caller, &*listed.subscriber), ("x509/spiffe://test.keyferry/client", "gateway"));
    assert!(listed.connected && listed.node == "test-node" && listed.connect_time.is_some());
    assert_eq!((listed.revision, listed.lag_revisions >= 0), (event.revision, true));
    assert_eq!(
        (&*listed.versions[0].version, &*listed.versions[0].current_version),
        (&*version("db", 1), &*version("db", 2))
    );
    assert!(listed.versions[0].lag.is_some() && listed.versions[0].rejection.is_empty());

    let status = broker.operations(&broker.operator).await.get_status(GetStatusRequest {}).await.unwrap();
    let counts = status.into_inner().status.unwrap().rotations.unwrap();
    assert_eq!((counts.subscriber_count, counts.lagging_count), (1, 0));

    let refused_it = acknowledge(&broker, &broker.client, &[version("db", 2)], "no room for it").await.unwrap();
    assert_eq!(
        (&*refused_it.versions[0].version, &*refused_it.versions[0].rejection),
        (&*version("db", 1), "no room for it")
    );
    assert_eq!(subscribers(&broker, &broker.operator, behind.clone()).await[0].versions[0].rejection, "no room for it");
    acknowledge(&broker, &broker.client, &[version("db", 2)], "").await.unwrap();
    assert_eq!(subscribers(&broker, &broker.operator, behind).await, []);

    drop(watch);
    let gone = async || !subscribers(&broker, &broker.operator, ListSubscribersRequest::default()).await[0].connected;
    eventually("the end of a stream is seen", gone).await;
    let TestBroker { ca, broker, directory, .. } = broker;
    broker.stop().await;
    let broker = TestBroker::start_in(directory, ca, Arc::new(SystemClock)).await;
    let known = async || !subscribers(&broker, &broker.operator, ListSubscribersRequest::default()).await.is_empty();
    eventually("subscribers are read again", known).await;
    let listed = subscribers(&broker, &broker.operator, ListSubscribersRequest::default()).await.remove(0);
    assert_eq!((listed.connected, &*listed.versions[0].version), (false, &*version("db", 2)));
}

#[tokio::test]
async fn only_versions_that_exist_and_may_be_watched_are_acknowledged_and_only_for_those_who_may_is_listed() {
    let broker = TestBroker::start().await;
    change(&broker, "db", b"one").await;
    let stranger = broker.ca.client("stranger");
    let outcome = async |who: &Issued, versions: &[String]| refused(acknowledge(&broker, who, versions, "").await);
    assert_eq!(outcome(&broker.client, &[version("db", 9)]).await, "VERSION_NOT_FOUND");
    assert_eq!(outcome(&broker.client, &[version("absent", 1)]).await, "SECRET_NOT_FOUND");
    assert_eq!(outcome(&stranger, &[version("db", 1)]).await, "ACCESS_DENIED");
    assert_eq!(outcome(&broker.client, &[]).await, "INVALID_ARGUMENT");
    assert_eq!(outcome(&broker.client, &[version("db", 1), version("db", 1)]).await, "INVALID_ARGUMENT");
    assert_eq!(outcome(&broker.client, &["stores/local/secrets/db/versions/latest".to_owned()]).await, "INVALID_NAME");
    assert_eq!(subscribers(&broker, &broker.operator, ListSubscribersRequest::default()).await, [], "all or none");

    acknowledge(&broker, &broker.client, &[version("db", 1)], "").await.unwrap();
    assert_eq!(subscribers(&broker, &broker.operator, ListSubscribersRequest::default()).await.len(), 1);
    assert_eq!(subscribers(&broker, &broker.client, ListSubscribersRequest::default()).await, [], "it may not list");
}

/// The large form is `benches/src/watch.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_subscribers_hear_of_a_change_though_some_of_them_stopped_reading() {
    const CONNECTIONS: usize = 5;
    const EACH: usize = 100;
    const STUCK: usize = 50;
    const CHANGES: u32 = 400;
    let quota = "[quota]\nread_rate = 100000\nread_burst = 100000\nchange_rate = 100000\nchange_burst = 100000\nstreams = 1000\n";
    let broker = TestBroker::with(quota, Arc::new(SystemClock)).await;
    change(&broker, "db", b"0").await;
    let mut watchers = Vec::new();
    for connection in 0..CONNECTIONS {
        let mut client = rotations(&broker, &broker.client).await;
        for number in 0..EACH {
            let subscriber = format!("s{connection}-{number}");
            let request = WatchRotationsRequest { subscriber, ..named(&["db"]) };
            let mut watcher = Watcher::open_with(&mut client, request).await.unwrap();
            watcher.snapshot().await;
            watchers.push(watcher);
        }
    }
    let mut stuck = watchers.split_off(watchers.len() - STUCK);
    let readers: Vec<_> = watchers
        .into_iter()
        .map(|mut watcher| {
            tokio::spawn(async move {
                for change in 0..CHANGES {
                    assert_eq!(watcher.event().await.version, version("db", change + 2));
                }
            })
        })
        .collect();
    let mut writer = broker.secrets(&broker.operator).await;
    for _ in 0..CHANGES {
        let request = AddSecretVersionRequest {
            parent: "stores/local/secrets/db".to_owned(),
            payload: b"x".to_vec().into(),
            ..AddSecretVersionRequest::default()
        };
        told(&broker, writer.add_secret_version(request).await.unwrap().into_inner()).await;
    }
    for reader in readers {
        tokio::time::timeout(Duration::from_secs(60), reader)
            .await
            .expect("nobody waits for those who are stuck")
            .unwrap();
    }
    for watcher in &mut stuck {
        for change in 0..CHANGES {
            assert_eq!(
                watcher.event().await.version,
                version("db", change + 2),
                "it gets all of it when it reads again"
            );
        }
    }
}
