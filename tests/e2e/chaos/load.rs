//! Callers who repeat what failed until it is answered.

use std::sync::Arc;
use std::time::Duration;

use keyferry_broker::clock::{Clock as _, SystemClock};
use keyferry_proto::v1::revoke_lease_request::Target;
use keyferry_proto::v1::secret_service_client::SecretServiceClient;
use keyferry_proto::v1::token_service_client::TokenServiceClient;
use keyferry_proto::v1::{
    AddSecretVersionRequest, GetSecretRequest, MintDatabaseTokenRequest, MintDatabaseTokenResponse, RevokeLeaseRequest,
};
use tokio::time::sleep;
use tonic::transport::Channel;

use super::world::{CANARY, World};
use crate::tokens::mint_request;
use crate::watch_faults::{Random, Seen, number};

const SHORT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);
/// Together no faster than the store's budget for changes.
const BETWEEN_CHANGES: Duration = Duration::from_millis(300);
pub(super) const WRITERS: usize = 3;
/// Each is written by one writer only, so that it is known in which order.
const SECRETS_A_WRITER: usize = 3;

/// All that is written, by its id.
pub(super) fn secrets() -> impl Iterator<Item = String> {
    (0..WRITERS * SECRETS_A_WRITER).map(|number| secret(number % WRITERS, number / WRITERS))
}

fn secret(worker: usize, turn: usize) -> String {
    format!("w{worker}-{}", turn % SECRETS_A_WRITER)
}

/// Of four tokens one is kept, one ends by itself, and two are given back.
pub(super) async fn mint(world: Arc<World>, worker: usize) {
    let clients = world.channels("client").map(TokenServiceClient::new);
    for turn in worker.. {
        if world.is_over() {
            return;
        }
        let ttl = (turn % 4 == 1).then(|| prost_types::Duration { seconds: SHORT.as_secs() as i64, nanos: 0 });
        let request_id = format!("00000000-0000-4000-8000-{worker:04x}{turn:08x}");
        let request = MintDatabaseTokenRequest { ttl, request_id, ..mint_request() };
        let Some(token) = minted(&world, &clients, request).await else { continue };
        let user = token.user;
        match turn % 4 {
            0 => assert!(world.truth().kept.insert(user), "two requests were given one user"),
            1 => {
                world.truth().ending.insert(user, SystemClock.monotonic() + SHORT);
            }
            _ => {
                revoke(&world, &clients, token.lease.unwrap().name).await;
                let mut truth = world.truth();
                truth.revoked += 1;
                truth.ending.insert(user, SystemClock.monotonic());
            }
        }
    }
}

/// None where a short one was over before its answer came through.
async fn minted(
    world: &World,
    clients: &[TokenServiceClient<Channel>; 2],
    request: MintDatabaseTokenRequest,
) -> Option<MintDatabaseTokenResponse> {
    let is_short = request.ttl.is_some();
    for attempt in 0.. {
        let (mut client, request) = (clients[attempt % 2].clone(), request.clone());
        match world.call(request, move |request| async move { client.mint_database_token(request).await }).await {
            Ok(token) => return Some(token),
            Err(reason) if is_short && reason == "LEASE_NOT_ACTIVE" => return None,
            Err(_) => sleep(PAUSE).await,
        }
    }
    unreachable!()
}

/// At the other broker first.
async fn revoke(world: &World, clients: &[TokenServiceClient<Channel>; 2], name: String) {
    for attempt in 1.. {
        let mut client = clients[attempt % 2].clone();
        let request = RevokeLeaseRequest { target: Some(Target::Name(name.clone())), ..Default::default() };
        if world.call(request, move |request| async move { client.revoke_lease(request).await }).await.is_ok() {
            return;
        }
        sleep(PAUSE).await;
    }
}

/// What fails may have happened or not, and is not repeated.
pub(super) async fn write(world: Arc<World>, worker: usize) {
    let clients = world.channels("operator").map(SecretServiceClient::new);
    for turn in 0.. {
        if world.is_over() {
            return;
        }
        let mut client = clients[turn % 2].clone();
        let secret = secret(worker, turn);
        let request = AddSecretVersionRequest {
            payload: format!("{CANARY} {secret}").into_bytes().into(),
            parent: format!("stores/gcp/secrets/{secret}"),
            ..AddSecretVersionRequest::default()
        };
        if let Ok(answer) = world.call(request, move |request| async move { client.add_secret_version(request).await }).await
            // Without a place in the log it is told later.
            && answer.revision > 0
        {
            let (secret, version) = number(&answer.version.unwrap().name);
            world.truth().confirmed.insert(secret, (version, answer.revision));
        }
        sleep(BETWEEN_CHANGES).await;
    }
}

/// What was confirmed is read, or something newer, at either broker. A stranger reads nothing.
pub(super) async fn read(world: Arc<World>, worker: usize) {
    let [clients, strangers] = ["client", "stranger"].map(|who| world.channels(who).map(SecretServiceClient::new));
    for turn in worker.. {
        if world.is_over() {
            return;
        }
        sleep(PAUSE).await;
        let confirmed: Vec<_> = world.truth().confirmed.iter().map(|(name, &place)| (name.clone(), place)).collect();
        let Some((secret, (version, revision))) = confirmed.get(turn % confirmed.len().max(1)).cloned() else {
            continue;
        };
        if turn % 8 == 0 {
            let mut client = strangers[turn / 8 % 2].clone();
            let request = GetSecretRequest { name: secret, ..GetSecretRequest::default() };
            let outcome = world.call(request, move |request| async move { client.get_secret(request).await }).await;
            assert!(outcome.is_err(), "a stranger was given a secret");
            continue;
        }
        let mut client = clients[turn % 2].clone();
        let in_azure = turn % 8 == 1;
        let request = if in_azure {
            GetSecretRequest { name: "stores/azure/secrets/api-key".to_owned(), ..GetSecretRequest::default() }
        } else {
            GetSecretRequest { name: secret.clone(), min_revision: revision, ..GetSecretRequest::default() }
        };
        if let Ok(answer) = world.call(request, move |request| async move { client.get_secret(request).await }).await {
            let text = String::from_utf8_lossy(&answer.payload).into_owned();
            if in_azure {
                assert_eq!(text, CANARY);
            } else {
                let read = number(&answer.name).1;
                assert!(read >= version, "{secret}: version {read} where {version} was confirmed");
                assert!(secret.ends_with(text.strip_prefix(CANARY).unwrap().trim()), "{secret} is {text:?}");
            }
            world.truth().reads += 1;
        }
    }
}

/// Watches at whichever broker until it has seen all that was confirmed, leaving now and then.
pub(super) async fn subscribe(world: Arc<World>, seed: u64) -> Seen {
    let channels = world.channels("operator");
    let (mut random, mut seen, mut cursor) = (Random::new(seed), Seen::default(), String::new());
    loop {
        let most = 1 + random.below(200);
        let is_done = |seen: &Seen| world.is_over() && seen.has(&world.truth().confirmed, |(version, _)| *version);
        let channel = channels[random.below(2)].clone();
        if seen.follow(channel, &mut cursor, "stores/gcp/", most, is_done).await {
            return seen;
        }
        sleep(PAUSE).await;
    }
}
