//! What happened to secrets outside the broker is known to it soon: by an event of either cloud, or by a look.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use keyferry_broker::clock::{Clock as _, SharedClock, SystemClock};
use keyferry_proto::v1::{EventSourceStatus, GetSecretRequest, GetStatusRequest, HealthState};
use keyferry_tests::broker::{TestBroker, prepare};
use keyferry_tests::doubles::identity::OidcIssuer;
use keyferry_tests::doubles::pubsub::PubSub;
use keyferry_tests::doubles::secret_manager::PROJECT_NUMBER;
use keyferry_tests::pki::Ca;
use keyferry_tests::sandbox::Clouds;
use keyferry_tests::web;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::admin::fetch;
use crate::reload::eventually;

pub(crate) const DB: &str = "stores/gcp/secrets/db-password";
pub(crate) const API: &str = "stores/azure/secrets/api-key";
const PUSHER: &str = "push@keyferry-test.iam.gserviceaccount.com";
const TENANT: &str = "11f0c0de-0000-4000-8000-00000000000a";
const EVENT_GRID: &str = "4962773b-9cdb-44cf-a8bf-237846a00ab7";
const ROLE: &str = "AzureEventGridSecureWebhookSubscriber";
pub(crate) const NEW_VERSION: &str = "Microsoft.KeyVault.SecretNewVersionCreated";

/// A broker on both clouds that would not look again for an hour by itself.
pub(crate) struct World {
    pub(crate) broker: TestBroker,
    pub(crate) clouds: Clouds,
    /// Of the tokens that deliveries bear.
    issuer: OidcIssuer,
}

impl World {
    /// With what `events` says, which is told the issuer of deliveries' tokens.
    pub(crate) async fn new(poll: &str, events: impl FnOnce(&str) -> String) -> Self {
        let clock: SharedClock = Arc::new(SystemClock);
        let (directory, ca) = (TempDir::new().unwrap(), Ca::new("test CA"));
        let clouds = Clouds::start(&ca, &clock).await;
        let issuer = OidcIssuer::start_with_tls(Arc::clone(&clock), &ca).await;
        clouds.secret_manager.create_secret(None, "db-password", &[]);
        clouds.secret_manager.add_version(None, "db-password", b"one");
        clouds.key_vault.put("api-key", "one", &[]);
        let stores = clouds.configuration();
        assert!(stores.contains("fresh_for = \"1s\""));
        let stores = stores
            .replace("fresh_for = \"1s\"", "fresh_for = \"1h\"")
            .replace("kind = \"gcp\"\n", &format!("kind = \"gcp\"\nproject_number = {PROJECT_NUMBER}\n{poll}\n"))
            .replace("kind = \"azure\"\n", &format!("kind = \"azure\"\n{poll}\n"));
        prepare(directory.path(), &ca, &format!("{stores}\n{}", events(issuer.url())));
        let broker = TestBroker::start_in(directory, ca, clock).await;
        let world = Self { broker, clouds, issuer };
        for secret in [DB, API] {
            assert_eq!(world.read(secret).await.unwrap(), "one", "{secret}");
        }
        world
    }

    async fn read(&self, secret: &str) -> Result<String, tonic::Status> {
        let request = GetSecretRequest { name: secret.to_owned(), ..GetSecretRequest::default() };
        let read = self.broker.secrets(&self.broker.client).await.get_secret(request).await?.into_inner();
        Ok(String::from_utf8(read.payload.to_vec()).unwrap())
    }

    async fn until_read(&self, secret: &str, value: &str) {
        eventually("the new version is read", async || self.read(secret).await.unwrap() == value).await;
    }

    async fn send(&self, request: Request<Bytes>) -> Response<Bytes> {
        web::send(self.broker.broker.web_address().unwrap(), &self.broker.ca, request).await
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: impl Into<Bytes>) -> StatusCode {
        let request = Request::post(path).header("authorization", format!("Bearer {token}")).body(body.into());
        self.send(request.unwrap()).await.status()
    }

    pub(crate) fn push_token(&self, more: &Value) -> String {
        let mut claims = json!({ "email": PUSHER, "email_verified": true });
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.issuer.token("113", "https://keyferry.test/events/push", claims)
    }

    pub(crate) fn grid_token(&self, more: &Value) -> String {
        let mut claims = json!({ "tid": TENANT, "appid": EVENT_GRID, "roles": [ROLE] });
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.issuer.token("event-grid", "api://keyferry-events", claims)
    }

    async fn sources(&self, store: usize) -> Vec<EventSourceStatus> {
        let mut operator = self.broker.operations(&self.broker.operator).await;
        let status = operator.get_status(GetStatusRequest::default()).await.unwrap().into_inner();
        let stores = status.status.unwrap().stores;
        stores.into_iter().filter(|store| !store.location.is_empty()).nth(store).unwrap().event_sources
    }

    pub(crate) fn new_google_version(&self, value: &[u8]) -> Value {
        self.clouds.secret_manager.add_version(None, "db-password", value);
        google_event("SECRET_VERSION_ADD", 2)
    }
}

fn google_event(kind: &str, version: usize) -> Value {
    let secret = format!("projects/{PROJECT_NUMBER}/secrets/db-password");
    json!({
        "eventType": kind, "secretId": secret, "versionId": format!("{secret}/versions/{version}"),
        "timestamp": "2026-11-20T10:00:00.000Z", "dataFormat": "JSON_API_V1",
    })
}

pub(crate) fn pushed(attributes: &Value) -> String {
    let message =
        json!({ "attributes": attributes, "data": "e30=", "messageId": "1", "publishTime": "2026-11-20T10:00:00Z" });
    json!({ "message": message, "subscription": PubSub::subscription() }).to_string()
}

pub(crate) fn push(issuer: &str) -> String {
    format!(
        "[events.push]\nkind = \"pubsub-push\"\nstores = [\"gcp\"]\nsubscription = \"{}\"\n\
         audience = \"https://keyferry.test/events/push\"\nservice_account = \"{PUSHER}\"\n\
         issuer = \"{issuer}\"\nca = \"ca.pem\"\n",
        PubSub::subscription()
    )
}

pub(crate) fn grid(issuer: &str) -> String {
    format!(
        "[events.grid]\nkind = \"event-grid\"\nstores = [\"azure\"]\naudience = \"api://keyferry-events\"\n\
         tenant = \"{TENANT}\"\nissuer = \"{issuer}\"\nca = \"ca.pem\"\n"
    )
}

pub(crate) fn vault_data(host: &str, version: &str) -> Value {
    json!({
        "Id": format!("https://{host}/secrets/api-key/{version}"), "VaultName": "vault", "ObjectType": "Secret",
        "ObjectName ": "api-key", "Version": format!(" {version}"), "NBF": "1559081980", "EXP": "1559082102",
    })
}

pub(crate) fn in_event_grids_schema(kind: &str, data: &Value) -> Value {
    json!({
        "id": "1", "topic": "/subscriptions/s", "subject": "api-key", "eventType": kind, "data": data,
        "eventTime": "2026-11-20T10:00:00.1234567Z", "dataVersion": "1", "metadataVersion": "1",
    })
}

pub(crate) fn in_cloud_events_schema(kind: &str, data: &Value) -> Value {
    json!({
        "id": "1", "source": "/subscriptions/s", "specversion": "1.0", "type": kind, "subject": "api-key",
        "time": "2026-11-20T10:00:00.1234567Z", "data": data,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_added_in_google_cloud_is_read_after_the_event_that_was_pulled() {
    let pubsub = PubSub::start();
    let world = World::new("", |_| {
        format!(
            "[events.pull]\nkind = \"pubsub\"\nstores = [\"gcp\"]\nsubscription = \"{}\"\nendpoint = \"{}\"\n",
            PubSub::subscription(),
            pubsub.endpoint()
        )
    })
    .await;
    // What is of no concern is acknowledged too, or it would come for ever.
    let foreign = json!({ "eventType": "SECRET_DELETE", "secretId": "projects/1/secrets/db-password" });
    let idle = [pubsub.publish(&json!({ "eventType": "TOPIC_CONFIGURED" })), pubsub.publish(&foreign)];
    let nonsense = pubsub.publish(&json!({ "hello": "world" }));
    let message = pubsub.publish(&world.new_google_version(b"two"));
    world.until_read(DB, "two").await;
    for id in idle.iter().chain([&nonsense, &message]) {
        eventually("the message is acknowledged", async || pubsub.acks(id) > 0).await;
    }
    let told = &world.sources(1).await[0];
    assert_eq!((told.source.as_str(), told.health()), ("pubsub", HealthState::Healthy), "{told:?}");

    world.clouds.secret_manager.disable_version(None, "db-password", 2);
    pubsub.publish(&google_event("SECRET_VERSION_DISABLE", 2));
    eventually("the disabled version is refused", async || world.read(DB).await.is_err()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_not_there_says_what_to_do() {
    let pubsub = PubSub::start();
    let world = World::new("", |_| {
        format!(
            "[events.pull]\nkind = \"pubsub\"\nstores = [\"gcp\"]\nsubscription = \"{}-missing\"\nendpoint = \"{}\"\n",
            PubSub::subscription(),
            pubsub.endpoint()
        )
    })
    .await;
    eventually("status tells", async || {
        let told = &world.sources(1).await[0];
        let error = told.last_error.as_ref().map(|error| error.message.clone()).unwrap_or_default();
        told.health() == HealthState::Unhealthy && error.contains("does not exist; create it")
    })
    .await;
    assert!(fetch(&world.broker, "/metrics").await.contains("keyferry_events_healthy{source=\"pull\"} 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_taken_from_its_own_subscription_and_sender_only() {
    let world = World::new("", push).await;
    let event = world.new_google_version(b"two");
    let now = SystemClock.now().as_secs();
    let stranger = OidcIssuer::start(Arc::new(SystemClock)).await;
    let forged = stranger.token("113", "https://keyferry.test/events/push", json!({ "iss": world.issuer.url() }));
    for (token, status) in [
        (forged, StatusCode::UNAUTHORIZED),
        ("nonsense".to_owned(), StatusCode::UNAUTHORIZED),
        (world.push_token(&json!({ "aud": "https://keyferry.test/events/grid" })), StatusCode::UNAUTHORIZED),
        (world.push_token(&json!({ "iat": now - 7_200, "exp": now - 3_600 })), StatusCode::UNAUTHORIZED),
        (world.push_token(&json!({ "email": "somebody@else.example" })), StatusCode::FORBIDDEN),
        (world.push_token(&json!({ "email_verified": false })), StatusCode::FORBIDDEN),
    ] {
        assert_eq!(world.post("/events/push", &token, pushed(&event)).await, status);
    }
    let bare = Request::post("/events/push").body(Bytes::from(pushed(&event))).unwrap();
    assert_eq!(world.send(bare).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(world.read(DB).await.unwrap(), "one", "nobody was believed");
    let told = &world.sources(1).await[0];
    assert!(told.last_error.as_ref().is_some_and(|error| error.message.contains("no token")), "{told:?}");

    let token = world.push_token(&json!({}));
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let elsewhere = pushed(&event).replace("subscriptions/keyferry", "subscriptions/other");
    let shapeless = ["", "{}", "[]", "null", "\"x\"", "{\"message\":{}}", "{\"message\":[],\"subscription\":\"\"}"];
    for body in shapeless.into_iter().chain([&*deep, &*elsewhere]) {
        let status = world.post("/events/push", &token, body.to_owned()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{}", &body[..body.len().min(40)]);
    }
    let large = Request::post("/events/push").header("authorization", format!("Bearer {token}"));
    let large = large.body(Bytes::from("x".repeat((1 << 20) + 1))).unwrap();
    let address = world.broker.broker.web_address().unwrap();
    assert_eq!(web::send_http2(address, &world.broker.ca, large).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(world.read(DB).await.unwrap(), "one");

    for _ in 0..2 {
        // The second is a replay, and harmless.
        assert_eq!(world.post("/events/push", &token, pushed(&event)).await, StatusCode::NO_CONTENT);
        assert_eq!(world.read(DB).await.unwrap(), "two");
    }
    let metrics = fetch(&world.broker, "/metrics").await;
    for expected in [
        "keyferry_events_total{source=\"push\",outcome=\"changed\"} 1",
        "keyferry_events_total{source=\"push\",outcome=\"known\"} 1",
        "keyferry_web_requests_total{route=\"/events/push\",status=\"204\"} 2",
        "keyferry_web_requests_total{route=\"/events/push\",status=\"413\"} 1",
    ] {
        assert!(metrics.contains(expected), "{expected}\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_added_in_a_key_vault_is_read_after_its_event_in_either_schema() {
    let world = World::new("", grid).await;
    let host = world.clouds.key_vault.vault_url().trim_start_matches("https://").trim_end_matches('/').to_owned();
    let token = world.grid_token(&json!({}));
    let schemas = [in_event_grids_schema, in_cloud_events_schema];
    for (number, schema) in schemas.into_iter().enumerate() {
        let value = format!("value {number}");
        let version = world.clouds.key_vault.put("api-key", &value, &[]);
        let event = schema(NEW_VERSION, &vault_data(&host, &version));
        let other = schema("Microsoft.KeyVault.VaultAccessPolicyChanged", &json!({}));
        let batch = json!([other, event]).to_string();
        for body in [event.to_string(), batch] {
            assert_eq!(world.post("/events/grid", &token, body).await, StatusCode::NO_CONTENT);
            assert_eq!(world.read(API).await.unwrap(), value);
        }
        let near = schema("Microsoft.KeyVault.SecretNearExpiry", &vault_data(&host, &version));
        assert_eq!(world.post("/events/grid", &token, near.to_string()).await, StatusCode::NO_CONTENT);
    }
    let metrics = fetch(&world.broker, "/metrics").await;
    assert!(metrics.contains("keyferry_events_total{source=\"grid\",outcome=\"changed\"} 4"), "{metrics}");

    for (claims, status) in [
        (json!({ "appid": TENANT }), StatusCode::FORBIDDEN),
        (json!({ "tid": EVENT_GRID }), StatusCode::FORBIDDEN),
        (json!({ "roles": ["Reader"] }), StatusCode::FORBIDDEN),
        (json!({ "aud": "api://another" }), StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(world.post("/events/grid", &world.grid_token(&claims), "[]").await, status);
    }
    for body in ["", "null", "7", "[7]", "[{}]", "{\"type\":\"Microsoft.KeyVault.SecretNewVersionCreated\"}"] {
        assert_eq!(world.post("/events/grid", &token, body).await, StatusCode::BAD_REQUEST, "{body}");
    }
    // Sent again later, once the vault can be asked.
    let unlisted = vault_data(&host, "0123456789abcdef0123456789abcdef");
    let event = in_event_grids_schema(NEW_VERSION, &unlisted).to_string();
    assert_eq!(world.post("/events/grid", &token, event).await, StatusCode::SERVICE_UNAVAILABLE);
    for (secret, version) in [("api_key", "0123456789abcdef0123456789abcdef"), ("api-key", "latest")] {
        let data = json!({ "Id": format!("https://{host}/secrets/{secret}/{version}") });
        let event = in_cloud_events_schema(NEW_VERSION, &data).to_string();
        let before = world.clouds.key_vault.requests();
        assert_eq!(world.post("/events/grid", &token, event).await, StatusCode::BAD_REQUEST, "{data}");
        assert_eq!(world.clouds.key_vault.requests(), before, "the vault is not asked about it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_grid_is_told_that_it_may_deliver() {
    let world = World::new("", grid).await;
    let ask = in_event_grids_schema(
        "Microsoft.EventGrid.SubscriptionValidationEvent",
        &json!({ "validationCode": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6", "validationUrl": "https://elsewhere.example" }),
    );
    let body = json!([ask]).to_string();
    let request = |token: &str| {
        let request = Request::post("/events/grid?code=1").header("aeg-event-type", "SubscriptionValidation");
        request.header("authorization", format!("Bearer {token}")).body(Bytes::from(body.clone())).unwrap()
    };
    let answer = world.send(request(&world.grid_token(&json!({})))).await;
    assert_eq!(
        (answer.status(), &answer.headers()["content-type"]),
        (StatusCode::OK, &"application/json".parse().unwrap())
    );
    let answer: Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(answer, json!({ "validationResponse": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6" }));
    assert_eq!(world.send(request("forged")).await.status(), StatusCode::UNAUTHORIZED);

    for (origin, status) in [("eventgrid.azure.net", StatusCode::OK), ("elsewhere.example", StatusCode::FORBIDDEN)] {
        let ask =
            Request::builder().method(Method::OPTIONS).uri("/events/grid").header("webhook-request-origin", origin);
        let answer = world.send(ask.body(Bytes::new()).unwrap()).await;
        assert_eq!(answer.status(), status, "{origin}");
        let allowed = answer.headers().get("webhook-allowed-origin");
        assert_eq!(allowed.is_some_and(|allowed| allowed == origin), status == StatusCode::OK);
    }
    let get = world.send(Request::get("/events/grid").body(Bytes::new()).unwrap()).await;
    assert_eq!(
        (get.status(), &get.headers()["allow"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"OPTIONS, POST".parse().unwrap())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_event_tells_is_found_by_looking() {
    let world = World::new("poll_interval = \"1s\"", |_| String::new()).await;
    world.clouds.secret_manager.add_version(None, "db-password", b"two");
    world.clouds.key_vault.put("api-key", "two", &[]);
    for secret in [DB, API] {
        world.until_read(secret, "two").await;
    }
    world.clouds.secret_manager.disable_version(None, "db-password", 2);
    world.clouds.key_vault.update("api-key", &json!({ "attributes": { "enabled": false } }));
    for secret in [DB, API] {
        eventually("the disabled version is refused", async || world.read(secret).await.is_err()).await;
    }
    world.clouds.secret_manager.add_version(None, "db-password", b"three");
    world.clouds.key_vault.put("api-key", "three", &[]);
    for secret in [DB, API] {
        eventually("the next one is read", async || world.read(secret).await.is_ok_and(|read| read == "three")).await;
    }
    world.clouds.secret_manager.delete_secret(None, "db-password");
    world.clouds.key_vault.delete("api-key");
    for secret in [DB, API] {
        eventually("the deleted secret is gone", async || world.read(secret).await.is_err()).await;
    }
    let told = world.sources(0).await;
    assert_eq!((told.len(), told[0].source.as_str()), (1, "poll"), "{told:?}");
}
