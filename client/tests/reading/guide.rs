//! The code in `docs/client.md`, which is here word for word and is run.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use keyferry_broker::clock::SystemClock;
use keyferry_broker::providers::local::LocalKey;
use keyferry_client::{Client, Options, TokenSource, WatchOptions, pool};
use keyferry_tests::broker::{TestBroker, prepare};
use keyferry_tests::pki::Ca;
use rcgen::KeyPair;
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::faults::addition;
use crate::options;

type Done = Result<(), Box<dyn Error>>;

const CONFIGURATION: &str = r#"
[stores.payments]
kind = "local"
file = "payments.redb"
key_file = "payments.key"

[issuer]
url = "https://127.0.0.1:1"
signing_key = "stores/payments/secrets/key"
refresh_interval = "1s"

[databases.orders]
kind = "cockroach"
host = "127.0.0.1"
database = "orders"
ca = "ca.pem"
audience = "orders"

[databases.orders.roles.app]
user = "app"
"#;

fn caller() -> Options {
    let mut options = Options::new("https://keyferry.example:7443", "ca.pem", "client.pem", "client.key");
    options.token = Some(TokenSource::azure("api://keyferry"));
    options
}

async fn reading(options: Options) -> Done {
    let client = Client::connect(options).await?;

    let password = client.get_secret("stores/payments/secrets/db").await?;
    let mut key = client.follow("stores/payments/secrets/key", Some("orders-1".parse()?)).await?;
    let current = key.current();
    let changing = tokio::spawn(async move { client.call(put("key", "next")).await });
    let next = key.changed().await;
    changing.await??;
    assert_eq!((&*password.payload, &*next.payload), (&b"hunter2"[..], &b"next"[..]));
    assert_ne!(current.version, next.version);
    Ok(())
}

async fn keeping(client: Client) -> Done {
    let cache = client.cache(Duration::from_secs(600)).watching(WatchOptions::default().prefix("stores/payments/"));
    let password = cache.get("stores/payments/secrets/db").await?;
    assert!(*password.payload == *b"hunter2" && !password.is_stale());
    Ok(())
}

async fn pooling(client: Client) -> Done {
    let logins = client.logins("databases/orders/roles/app", None).await?;
    let one = pool::deadpool::Pool::builder(pool::deadpool::Manager::new(logins.clone())).build()?;
    let other = pool::sqlx::Pool::new(logins, PgPoolOptions::new());
    assert!(!one.is_closed() && !other.is_closed());
    Ok(())
}

fn put(secret: &str, payload: &str) -> keyferry_client::proto::AddSecretVersionRequest {
    let mut addition = addition(payload);
    addition.parent = format!("stores/payments/secrets/{secret}");
    addition
}

#[tokio::test]
async fn the_guides_code_runs() {
    let (directory, ca) = (TempDir::new().unwrap(), Ca::new("test CA"));
    prepare(directory.path(), &ca, CONFIGURATION);
    LocalKey::generate_file(&directory.path().join("payments.key")).unwrap();
    let broker = TestBroker::start_in(directory, ca, Arc::new(SystemClock)).await;
    let options = Options { token: None, ..options(&broker, &broker.operator) };
    let client = Client::connect(options.clone()).await.unwrap();
    client.call(put("db", "hunter2")).await.unwrap();
    client.call(put("key", &KeyPair::generate().unwrap().serialize_pem())).await.unwrap();
    while let Err(error) = pooling(client.clone()).await {
        // Until the key signs.
        assert!(error.to_string().contains("sign"), "{error}");
        sleep(Duration::from_millis(10)).await;
    }
    keeping(client).await.unwrap();
    reading(options).await.unwrap();
    assert_eq!(caller().endpoint, "https://keyferry.example:7443");
}

#[test]
fn the_guide_shows_no_code_but_what_is_run() {
    let run = include_str!("guide.rs");
    let guide = include_str!("../../../docs/client.md");
    let shown = guide.split("```rust\n").skip(1).flat_map(|block| block.split("```").next().unwrap().lines());
    let code: Vec<_> = shown.map(|line| line.split(" //").next().unwrap().trim()).filter(|l| !l.is_empty()).collect();
    assert!(code.len() > 8, "{code:?}");
    for line in code {
        assert!(run.lines().any(|run| run.trim() == line), "{line}");
    }
}
