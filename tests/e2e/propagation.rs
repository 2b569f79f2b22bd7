//! From a version that somebody adds in a cloud to a subscriber that reads it: over each source alone, with the old value
//! in the cache.

use keyferry_proto::v1::rotation_service_client::RotationServiceClient;
use keyferry_proto::v1::watch_rotations_response::Response;
use keyferry_proto::v1::{
    GetSecretRequest, GetSecretResponse, ReadSource, RotationEvent, RotationEventKind, RotationFilter, RotationSource,
    WatchRotationsRequest, WatchRotationsResponse,
};
use keyferry_tests::doubles::pubsub::PubSub;
use serde_json::json;
use tonic::Streaming;

use crate::reload::eventually;
use crate::sources::{
    API, DB, NEW_VERSION, World, grid, in_cloud_events_schema, in_event_grids_schema, push, pushed, vault_data,
};

struct Subscriber {
    stream: Streaming<WatchRotationsResponse>,
    secret: &'static str,
}

impl Subscriber {
    /// Has the whole of the present, and an old value that every reader gets from the cache.
    async fn of(world: &World, secret: &'static str) -> Self {
        let mut client = RotationServiceClient::new(world.broker.channel(&world.broker.client).await);
        let filter = RotationFilter { names: vec![secret.to_owned()], ..Default::default() };
        let name = secret.rsplit('/').next().unwrap().to_owned();
        let request = WatchRotationsRequest { subscriber: name, filter: Some(filter), ..Default::default() };
        let mut subscriber = Self { stream: client.watch_rotations(request).await.unwrap().into_inner(), secret };
        while !matches!(subscriber.next().await, Response::Snapshot(part) if part.complete) {}
        // The first look at a secret puts it on record, which empties the cache once.
        eventually("the old value comes from the cache", async || {
            let read = ask(world, GetSecretRequest { name: secret.to_owned(), ..Default::default() }).await;
            assert_eq!(&*read.payload, b"one");
            read.source() == ReadSource::Cache
        })
        .await;
        subscriber
    }

    async fn next(&mut self) -> Response {
        self.stream.message().await.unwrap().unwrap().response.unwrap()
    }

    /// Hears of the version, asks for no older answer than that, and has the new value.
    async fn hears_and_reads(&mut self, world: &World, id: &str, value: &str, source: RotationSource) {
        let version = format!("{}/versions/{id}", self.secret);
        let event = self.hears(&version).await;
        assert_eq!((event.secret.as_str(), event.source()), (self.secret, source));
        let request = GetSecretRequest {
            name: self.secret.to_owned(),
            min_revision: event.revision,
            epoch: event.epoch,
            ..Default::default()
        };
        let read = ask(world, request).await;
        assert_eq!((read.name.as_str(), &*read.payload), (version.as_str(), value.as_bytes()));
    }

    async fn hears(&mut self, version: &str) -> RotationEvent {
        loop {
            let Response::Events(batch) = self.next().await else { continue };
            let is_it =
                |event: &RotationEvent| event.kind() == RotationEventKind::VersionCurrent && event.version == version;
            if let Some(event) = batch.events.into_iter().find(is_it) {
                return event;
            }
        }
    }
}

async fn ask(world: &World, request: GetSecretRequest) -> GetSecretResponse {
    world.broker.secrets(&world.broker.client).await.get_secret(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_in_google_cloud_comes_by_pubsub_to_a_subscriber_that_reads_it() {
    let pubsub = PubSub::start();
    let world = World::new("", |_| {
        format!(
            "[events.pull]\nkind = \"pubsub\"\nstores = [\"gcp\"]\nsubscription = \"{}\"\nendpoint = \"{}\"\n",
            PubSub::subscription(),
            pubsub.endpoint()
        )
    })
    .await;
    let mut subscriber = Subscriber::of(&world, DB).await;
    pubsub.publish(&world.new_google_version(b"two"));
    subscriber.hears_and_reads(&world, "2", "two", RotationSource::Pubsub).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_in_google_cloud_that_is_pushed_comes_to_a_subscriber_that_reads_it() {
    let world = World::new("", push).await;
    let mut subscriber = Subscriber::of(&world, DB).await;
    let event = world.new_google_version(b"two");
    assert!(world.post("/events/push", &world.push_token(&json!({})), pushed(&event)).await.is_success());
    subscriber.hears_and_reads(&world, "2", "two", RotationSource::Pubsub).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_in_a_key_vault_comes_by_event_grid_in_either_schema_to_a_subscriber_that_reads_it() {
    for schema in [in_event_grids_schema, in_cloud_events_schema] {
        let world = World::new("", grid).await;
        let mut subscriber = Subscriber::of(&world, API).await;
        let host = world.clouds.key_vault.vault_url().trim_start_matches("https://").trim_end_matches('/').to_owned();
        let version = world.clouds.key_vault.put("api-key", "two", &[]);
        let event = schema(NEW_VERSION, &vault_data(&host, &version)).to_string();
        assert!(world.post("/events/grid", &world.grid_token(&json!({})), event).await.is_success());
        subscriber.hears_and_reads(&world, &version, "two", RotationSource::EventGrid).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_every_event_lost_a_new_version_is_found_by_looking_and_comes_to_a_subscriber_that_reads_it() {
    let world = World::new("poll_interval = \"1s\"", |_| String::new()).await;
    let (mut google, mut azure) = (Subscriber::of(&world, DB).await, Subscriber::of(&world, API).await);
    world.clouds.secret_manager.add_version(None, "db-password", b"two");
    let version = world.clouds.key_vault.put("api-key", "two", &[]);
    google.hears_and_reads(&world, "2", "two", RotationSource::Poll).await;
    azure.hears_and_reads(&world, &version, "two", RotationSource::Poll).await;
}
