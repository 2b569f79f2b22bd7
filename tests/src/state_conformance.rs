//! What every state backend has to do, whichever keeps the bytes.

use std::sync::Arc;
use std::time::Duration;

use keyferry_broker::state::{
    Batch, Change, Condition, Conflict, Fence, Key, Kind, ListPage, Listing, Outcome, Prefix, Revision, StateError,
    Store, Txn, TxnFault, Watch, WatchEnd, Watched,
};

static THINGS: Kind = Kind { name: "things", upgrades: &[] };
/// Its name begins like the other's, to catch whoever compares text only.
static THINGS_TOO: Kind = Kind { name: "things-too", upgrades: &[] };

/// Ends a suite that would wait for ever; nothing is timed by it.
const STUCK: Duration = Duration::from_secs(60);

/// Runs the suite on an empty store.
pub async fn conforms(store: Arc<dyn Store>) {
    let begun = store.status();
    let suite = Suite { store: Arc::clone(&store) };
    soon(store.leadership().elected()).await;
    suite.a_record_is_there_from_its_put_to_its_delete().await;
    suite.every_condition_is_checked_and_the_first_that_fails_is_named().await;
    suite.nothing_is_written_when_a_condition_fails().await;
    suite.what_changes_nothing_takes_no_revision().await;
    suite.lists_are_in_order_and_paged_and_keep_to_their_prefix().await;
    suite.a_watch_tells_every_transaction_once_whole_and_in_order().await;
    suite.a_watch_says_how_far_it_came_where_nothing_concerns_it().await;
    suite.a_wait_that_is_given_up_loses_nothing().await;
    suite.counting_up_at_once_from_many_sides_loses_no_step().await;
    suite.transactions_beyond_the_limits_are_refused_whole().await;
    suite.the_largest_transaction_fits().await;
    suite.the_leader_s_fence_lets_it_write().await;
    let ended = store.status();
    assert_eq!((begun.epoch, begun.backend), (ended.epoch, ended.backend));
    assert!(ended.revision > begun.revision && ended.failing.is_none(), "{ended:?}");
}

/// A watch from before the oldest history is told so; `compact` makes everything up to now old.
pub async fn tells_compaction(store: &dyn Store, compact: impl AsyncFn(Revision)) {
    let first = committed(store.txn(Txn::new().put_bytes(&key("old"), "1")).await);
    let second = committed(store.txn(Txn::new().put_bytes(&key("old"), "2")).await);
    compact(second).await;
    let last = put(store, "new", "3").await;
    let end = soon(store.watch(Prefix::all(), first).next()).await.unwrap_err();
    let WatchEnd::Compacted { oldest } = end else { panic!("{end:?}") };
    assert!(oldest > first, "{oldest} {first}");
    // From there on, all is told.
    let mut watch = store.watch(things(), oldest);
    while batch(&mut watch).await.revision < last {}
    // The record itself is untouched.
    assert_eq!(value(store, "old").await.as_deref(), Some("2"));
}

struct Suite {
    store: Arc<dyn Store>,
}

impl Suite {
    async fn a_record_is_there_from_its_put_to_its_delete(&self) {
        let store = &*self.store;
        assert_eq!(store.get(&key("a")).await.unwrap(), None);
        let first = put(store, "a", "1").await;
        let entry = store.get(&key("a")).await.unwrap().unwrap();
        assert_eq!((entry.key, &*entry.value, entry.revision), (key("a"), &b"1"[..], first));
        let second = put(store, "a", "2").await;
        assert!(second > first);
        assert_eq!(store.get(&key("a")).await.unwrap().unwrap().revision, second);
        let third = delete(store, "a").await;
        assert!(third > second);
        assert_eq!(store.get(&key("a")).await.unwrap(), None);
        assert!(store.status().revision >= third);
    }

    async fn every_condition_is_checked_and_the_first_that_fails_is_named(&self) {
        let store = &*self.store;
        let before = put(store, "other", "x").await;
        let there = put(store, "there", "x").await;
        let after = put(store, "other", "y").await;
        let (k, gone) = (key("there"), key("gone"));
        for (condition, holds) in [
            (Condition::Present(k.clone()), true),
            (Condition::Present(gone.clone()), false),
            (Condition::Absent(k.clone()), false),
            (Condition::Absent(gone.clone()), true),
            (Condition::Unchanged(k.clone(), there), true),
            (Condition::Unchanged(k.clone(), before), false),
            (Condition::Unchanged(k.clone(), after), false),
            (Condition::Unchanged(gone.clone(), there), false),
            (Condition::WrittenBefore(k.clone(), after), true),
            (Condition::WrittenBefore(k.clone(), there), false),
            (Condition::WrittenBefore(gone.clone(), there), true),
        ] {
            let outcome = store.txn(Txn::new().when(condition.clone())).await.unwrap();
            match &outcome {
                Outcome::Committed(_) if holds => {}
                Outcome::Conflict(Conflict::Key { key, found }) if !holds => {
                    assert_eq!(*found, (*key == k).then_some(there), "{condition:?}");
                }
                Outcome::Committed(_) | Outcome::Conflict(_) | Outcome::Unknown => panic!("{condition:?}: {outcome:?}"),
            }
        }
        let both = Txn::new()
            .when(Condition::Present(k.clone()))
            .when(Condition::Present(gone.clone()))
            .when(Condition::Absent(k.clone()));
        let named = Conflict::Key { key: gone, found: None };
        assert_eq!(store.txn(both).await, Ok(Outcome::Conflict(named)));
        delete(store, "there").await;
    }

    async fn nothing_is_written_when_a_condition_fails(&self) {
        let store = &*self.store;
        put(store, "kept", "1").await;
        let txn = Txn::new().put_bytes(&key("made"), "x").delete(&key("kept")).when(Condition::Absent(key("kept")));
        assert!(matches!(store.txn(txn).await, Ok(Outcome::Conflict(_))));
        assert_eq!(value(store, "kept").await.as_deref(), Some("1"));
        assert_eq!(value(store, "made").await, None);
    }

    async fn what_changes_nothing_takes_no_revision(&self) {
        let store = &*self.store;
        let last = put(store, "same", "1").await;
        assert_eq!(committed(store.txn(Txn::new()).await), last);
        assert_eq!(committed(store.txn(Txn::new().delete(&key("never-was"))).await), last);
        assert_eq!(committed(store.txn(Txn::new().when(Condition::Present(key("same")))).await), last);
        assert!(put(store, "same", "1").await > last);
    }

    async fn lists_are_in_order_and_paged_and_keep_to_their_prefix(&self) {
        let store = &*self.store;
        let all: Vec<Key> = (0..25).map(|n| Key::new(&THINGS, &["list", &format!("{n:02}")]).unwrap()).collect();
        for chunk in all.chunks(10).rev() {
            let txn = chunk.iter().fold(Txn::new(), |txn, key| txn.put_bytes(key, key.as_str().to_owned()));
            committed(store.txn(txn).await);
        }
        for outside in [
            Key::new(&THINGS, &["list"]).unwrap(),
            Key::new(&THINGS, &["list-too", "00"]).unwrap(),
            Key::new(&THINGS_TOO, &["list", "00"]).unwrap(),
        ] {
            committed(store.txn(Txn::new().put_bytes(&outside, "x")).await);
        }
        let prefix = Prefix::new(&THINGS, &["list"]).unwrap();
        for size in [1, 7, 25, 26, 10_000] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let listing = store.list(&prefix, ListPage { after, size }).await.unwrap();
                assert!(listing.entries.len() <= size && listing.revision >= listing.entries[0].revision);
                after = listing.entries.last().map(|entry| entry.key.clone());
                let more = listing.more;
                found.extend(listing.entries.into_iter().map(|entry| {
                    assert_eq!(entry.value, entry.key.as_str());
                    entry.key
                }));
                if !more {
                    break;
                }
            }
            assert_eq!(found, all, "pages of {size}");
        }
        let none = Prefix::new(&THINGS, &["nothing"]).unwrap();
        let Listing { entries, more, .. } = store.list(&none, ListPage { after: None, size: 10 }).await.unwrap();
        assert!(entries.is_empty() && !more);
    }

    async fn a_watch_tells_every_transaction_once_whole_and_in_order(&self) {
        let store = &*self.store;
        let first = put(store, "w", "1").await;
        let txn = Txn::new()
            .put_bytes(&key("w"), "2")
            .put_bytes(&Key::new(&THINGS_TOO, &["w"]).unwrap(), "elsewhere")
            .put_bytes(&key("v"), "3");
        let second = committed(store.txn(txn).await);
        let mut watch = store.watch(things(), first);
        let third = delete(store, "w").await;
        let put = |id, value: &'static str| Change { key: key(id), value: Some(value.into()) };
        let gone = Change { key: key("w"), value: None };
        assert_eq!(batch(&mut watch).await, Batch { revision: first, changes: vec![put("w", "1")] });
        let both = batch(&mut watch).await;
        assert_eq!(both.revision, second);
        assert_eq!(both.changes.len(), 2, "{both:?}");
        assert!(both.changes.contains(&put("w", "2")) && both.changes.contains(&put("v", "3")), "{both:?}");
        assert_eq!(batch(&mut watch).await, Batch { revision: third, changes: vec![gone] });
        // Another watch, begun later, hears the same from where it begins, and what is yet to come.
        let mut late = store.watch(things(), second);
        assert_eq!(batch(&mut late).await, both);
        let fourth = committed(store.txn(Txn::new().put_bytes(&key("v"), "4")).await);
        assert_eq!(batch(&mut watch).await.revision, fourth);
        assert_eq!(batch(&mut late).await.revision, third);
        assert_eq!(batch(&mut late).await.revision, fourth);
    }

    async fn a_watch_says_how_far_it_came_where_nothing_concerns_it(&self) {
        let store = &*self.store;
        let begun = put(store, "p", "1").await;
        let mut watch = store.watch(Prefix::new(&THINGS, &["nobody"]).unwrap(), begun);
        let reached = loop {
            match soon(watch.next()).await.unwrap() {
                Watched::Progress(revision) if revision >= begun => break revision,
                Watched::Progress(_) => {}
                Watched::Batch(batch) => panic!("{batch:?}"),
            }
        };
        assert!(reached <= store.status().revision.max(reached));
    }

    async fn a_wait_that_is_given_up_loses_nothing(&self) {
        let store = &*self.store;
        let from = put(store, "c", "0").await;
        let mut watch = store.watch(things(), from);
        let writer = async {
            for n in 1..=20 {
                put(store, "c", &n.to_string()).await;
            }
        };
        let reader = async {
            let mut heard = Vec::new();
            while heard.len() < 21 {
                tokio::select! {
                    biased;
                    () = tokio::task::yield_now() => {}
                    watched = watch.next() => {
                        if let Watched::Batch(batch) = watched.unwrap() {
                            heard.push(batch.changes[0].value.clone().unwrap());
                        }
                    }
                }
                if let Ok(watched) = tokio::time::timeout(Duration::from_millis(1), watch.next()).await
                    && let Watched::Batch(batch) = watched.unwrap()
                {
                    heard.push(batch.changes[0].value.clone().unwrap());
                }
            }
            heard
        };
        let ((), heard) = soon(async { tokio::join!(writer, reader) }).await;
        assert_eq!(heard, (0..=20).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    async fn counting_up_at_once_from_many_sides_loses_no_step(&self) {
        put(&*self.store, "count", "0").await;
        let count_up = |store: Arc<dyn Store>| async move {
            for _ in 0..25 {
                loop {
                    let entry = store.get(&key("count")).await.unwrap().unwrap();
                    let count: u32 = str::from_utf8(&entry.value).unwrap().parse().unwrap();
                    let txn = Txn::new()
                        .when(Condition::Unchanged(entry.key.clone(), entry.revision))
                        .put_bytes(&entry.key, (count + 1).to_string());
                    match store.txn(txn).await.unwrap() {
                        Outcome::Committed(_) => break,
                        Outcome::Conflict(_) => {}
                        Outcome::Unknown => panic!("nothing failed"),
                    }
                }
            }
        };
        let tasks: Vec<_> = (0..8).map(|_| tokio::spawn(count_up(Arc::clone(&self.store)))).collect();
        for task in tasks {
            soon(task).await.unwrap();
        }
        assert_eq!(value(&*self.store, "count").await.as_deref(), Some("200"));
    }

    async fn transactions_beyond_the_limits_are_refused_whole(&self) {
        let store = &*self.store;
        let refused = |txn| async { store.txn(txn).await };
        let many = |count| (0..count).fold(Txn::new(), |txn, n| txn.put_bytes(&key(&format!("many-{n}")), "x"));
        assert_eq!(refused(many(Txn::MAX_OPERATIONS + 1)).await, Err(StateError::Txn(TxnFault::TooMany)));
        let large = Txn::new().put_bytes(&key("large"), vec![0; Txn::MAX_BYTES]);
        assert_eq!(refused(large).await, Err(StateError::Txn(TxnFault::TooLarge)));
        let twice = Txn::new().put_bytes(&key("twice"), "x").delete(&key("twice"));
        assert_eq!(refused(twice).await, Err(StateError::Txn(TxnFault::WrittenTwice(key("twice")))));
        assert_eq!(value(store, "many-0").await, None);
    }

    async fn the_largest_transaction_fits(&self) {
        let store = &*self.store;
        let mut txn = Txn::new();
        for n in 0..Txn::MAX_OPERATIONS {
            let key = key(&format!("fits-{n}"));
            txn = txn.when(Condition::Absent(key.clone())).put_bytes(&key, vec![7; Txn::MAX_BYTES / 100 - 64]);
        }
        let revision = committed(store.txn(txn).await);
        let mut watch = store.watch(things(), revision);
        assert_eq!(batch(&mut watch).await.changes.len(), Txn::MAX_OPERATIONS);
    }

    async fn the_leader_s_fence_lets_it_write(&self) {
        let fence: Fence = soon(self.store.leadership().elected()).await;
        let txn = Txn::new().when(Condition::Leads(fence)).put_bytes(&key("led"), "x");
        committed(self.store.txn(txn).await);
        assert_eq!(self.store.leadership().term().fence, Some(fence));
        assert!(self.store.status().leader.is_some());
    }
}

fn things() -> Prefix {
    Prefix::new(&THINGS, &[]).unwrap()
}

pub fn key(id: &str) -> Key {
    Key::new(&THINGS, &[id]).unwrap()
}

pub async fn put(store: &dyn Store, id: &str, value: &str) -> Revision {
    committed(store.txn(Txn::new().put_bytes(&key(id), value.to_owned())).await)
}

async fn delete(store: &dyn Store, id: &str) -> Revision {
    committed(store.txn(Txn::new().delete(&key(id))).await)
}

pub async fn value(store: &dyn Store, id: &str) -> Option<String> {
    let entry = store.get(&key(id)).await.unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

fn committed(outcome: Result<Outcome, StateError>) -> Revision {
    match outcome {
        Ok(Outcome::Committed(revision)) => revision,
        other => panic!("{other:?}"),
    }
}

async fn batch(watch: &mut Watch) -> Batch {
    loop {
        if let Watched::Batch(batch) = soon(watch.next()).await.unwrap() {
            return batch;
        }
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(STUCK, future).await.expect("the store is stuck")
}
