//! What must be true, whatever happened.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use keyferry_broker::clock::{Clock as _, SystemClock};
use keyferry_proto::v1::token_service_client::TokenServiceClient;
use keyferry_proto::v1::{LeaseState, ListLeasesRequest};

use super::world::{CANARY, World};
use crate::audit::{records, verify};
use crate::reload::eventually;
use crate::token_faults::leases as all_leases;
use crate::watch_faults::Seen;

/// Beyond its time a user may live while nothing works, and then not long.
const GRACE: Duration = Duration::from_secs(60);

/// While it lasts: whoever is to stay is there, and nobody outstays its time by much.
pub(super) async fn look_at_users(world: Arc<World>) {
    while !world.is_over() {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (kept, ending) = {
            let truth = world.truth();
            (truth.kept.clone(), truth.ending.clone())
        };
        let Some(users) = world.users().await else { continue };
        let early: Vec<_> = kept.difference(&users).collect();
        assert!(early.is_empty(), "revoked early: {early:?}");
        let now = SystemClock.monotonic();
        let late = ending.iter().filter(|(user, _)| users.contains(*user));
        let late = late.map(|(_, due)| now.saturating_duration_since(*due)).max().unwrap_or_default();
        assert!(late < GRACE, "a user is there {late:?} past its time");
        let mut truth = world.truth();
        truth.looks += 1;
        truth.latest = truth.latest.max(late);
        truth.ending.retain(|user, _| users.contains(user) || !ending.contains_key(user));
    }
}

pub(super) async fn leases(world: &World) {
    let kept = world.truth().kept.clone();
    for channel in world.channels("client") {
        let client = TokenServiceClient::new(channel);
        let answers = async || client.clone().list_leases(ListLeasesRequest::default()).await.is_ok();
        eventually("it answers", answers).await;
        eventually("users, leases and what callers hold are the same", async || {
            let leases = all_leases(&mut client.clone()).await;
            let active = leases.iter().all(|lease| lease.state() == LeaseState::Active);
            let leased: BTreeSet<_> = leases.into_iter().map(|lease| lease.user).collect();
            active && leased == kept && world.users().await.as_ref() == Some(&kept)
        })
        .await;
    }
    let truth = world.truth();
    assert!(!kept.is_empty() && truth.revoked > 0 && truth.looks > 1, "hardly anything happened");
    println!(
        "leases: {} users kept and there, {} given back and gone; of {} looks none found one missing, and the latest \
         that was still there was {:?} past its time",
        kept.len(),
        truth.revoked,
        truth.looks,
        truth.latest,
    );
}

pub(super) fn streams(seen: &[Seen]) {
    let told = Seen::told(seen);
    println!("streams: {told}");
    assert!(seen.iter().all(Seen::is_busy), "hardly anything happened");
}

pub(super) fn reads(world: &World) {
    let truth = world.truth();
    println!("reads: {} of {} secrets, none older than what was confirmed", truth.reads, truth.confirmed.len());
    assert!(truth.reads > 0 && !truth.confirmed.is_empty(), "hardly anything happened");
}

pub(super) fn audit(world: &World) {
    let mut recorded = HashSet::new();
    let mut lines = 0;
    for replica in &world.replicas {
        replica.conclude();
        let (good, said) = verify(&replica.audit());
        assert!(good, "{said}");
        for record in records(&replica.audit()) {
            lines += 1;
            assert!(!record.to_string().contains(CANARY), "{record}");
            recorded.extend(record["trace"].as_str().map(ToOwned::to_owned));
        }
    }
    let truth = world.truth();
    let lost: Vec<_> = truth.answered.iter().filter(|trace| !recorded.contains(*trace)).collect();
    assert!(lost.is_empty(), "{} of {} answered calls are not on record", lost.len(), truth.answered.len());
    println!(
        "audit: {} answered calls, all among {lines} records of two intact logs without a secret",
        truth.answered.len()
    );
}
