//! Pools of connections that outlive their credentials, in a real PostgreSQL.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyferry_broker::clock::SystemClock;
use keyferry_client::pool::deadpool;
use keyferry_client::{Client, Error, Reason};
use keyferry_tests::broker::{TestBroker, prepare};
use keyferry_tests::pki::Ca;
use keyferry_tests::postgres::Cluster;
use tempfile::TempDir;

use crate::options;

const POLICY: &str = r#"
@id("clients-mint")
permit (principal, action in [Keyferry::Action::"Mint"], resource in Keyferry::Database::"shop")
when { principal has certificate && principal.certificate has spiffe && principal.certificate.spiffe.path == "/client" };
"#;

const ROLE: &str = "databases/shop/roles/reader";
/// Short, so that a suite sees many of them end.
const LIFE: Duration = Duration::from_secs(2);
/// The first ten have ended when these have been seen: each comes while half of the one before is left, at the earliest.
const LOGINS: usize = 13;
const WORKERS: usize = 4;

struct Scene {
    _broker: TestBroker,
    cluster: Cluster,
    client: Client,
}

/// What those who use a pool saw.
#[derive(Clone, Default)]
struct Seen {
    users: Arc<Mutex<BTreeSet<String>>>,
    queries: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

impl Scene {
    async fn new() -> Self {
        let ca = Ca::new("test CA");
        let cluster = Cluster::start(&ca);
        let directory = TempDir::new().unwrap();
        prepare(directory.path(), &ca, &format!("{}[leases]\nsweep_interval = \"1s\"\n", cluster.configuration()));
        std::fs::write(directory.path().join("policy/mint.cedar"), POLICY).unwrap();
        let broker = TestBroker::start_in(directory, ca, Arc::new(SystemClock)).await;
        let client = Client::connect(options(&broker, &broker.client)).await.unwrap();
        Self { _broker: broker, cluster, client }
    }

    async fn until_no_users(&self) {
        while !self.cluster.users().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

impl Seen {
    /// Asks who it is, on and on, until told to stop.
    async fn work<F>(self, ask: impl Fn() -> F)
    where
        F: Future<Output = Result<String, String>>,
    {
        while !self.stop.load(Ordering::Relaxed) {
            match ask().await {
                Ok(user) => {
                    self.users.lock().unwrap().insert(user);
                    self.queries.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => self.failures.lock().unwrap().push(error),
            }
        }
    }

    async fn until_enough(&self, workers: Vec<tokio::task::JoinHandle<()>>) {
        while self.users.lock().unwrap().len() < LOGINS && self.failures.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.await.unwrap();
        }
        assert_eq!(*self.failures.lock().unwrap(), [""; 0]);
        println!("{} queries by {LOGINS} users", self.queries.load(Ordering::Relaxed));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_deadpool_lives_through_ten_expiries_without_a_failed_query() {
    let scene = Scene::new().await;
    let logins = scene.client.logins(ROLE, Some(LIFE)).await.unwrap();
    let pool = deadpool::Pool::builder(deadpool::Manager::new(logins)).max_size(WORKERS).build().unwrap();
    let seen = Seen::default();
    let workers = (0..WORKERS).map(|_| {
        let pool = pool.clone();
        tokio::spawn(seen.clone().work(move || {
            let pool = pool.clone();
            async move {
                let connection = pool.get().await.map_err(|error| format!("{error:?}"))?;
                let statement = "SELECT session_user::text, (SELECT count(*) FROM orders)";
                let statement = connection.prepare_cached(statement).await.map_err(|error| format!("{error:?}"))?;
                let row = connection.query_one(&statement, &[]).await.map_err(|error| format!("{error:?}"))?;
                Ok(row.get(0))
            }
        }))
    });
    seen.until_enough(workers.collect()).await;
}

#[cfg(feature = "sqlx")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_sqlx_lives_through_ten_expiries_without_a_failed_query() {
    use keyferry_client::pool::sqlx::Pool;
    use sqlx::postgres::PgPoolOptions;

    let scene = Scene::new().await;
    let logins = scene.client.logins(ROLE, Some(LIFE)).await.unwrap();
    let pool = Pool::new(logins, PgPoolOptions::new().max_connections(WORKERS as u32));
    let seen = Seen::default();
    let workers = (0..WORKERS).map(|_| {
        let pool = pool.clone();
        tokio::spawn(seen.clone().work(move || {
            let pool = pool.clone();
            async move {
                let asked = sqlx::query_scalar("SELECT session_user::text FROM orders LIMIT 1").fetch_one(&*pool);
                asked.await.map_err(|error| format!("{error:?}"))
            }
        }))
    });
    seen.until_enough(workers.collect()).await;
}

#[tokio::test]
async fn a_login_that_nobody_uses_any_more_is_revoked() {
    let scene = Scene::new().await;
    let logins = scene.client.logins(ROLE, None).await.unwrap();
    let pool = deadpool::Pool::builder(deadpool::Manager::new(logins)).build().unwrap();
    let connection = pool.get().await.unwrap();
    drop(pool);
    connection.query_one("SELECT 1", &[]).await.unwrap();
    assert_eq!(scene.cluster.users().len(), 1, "the connection is in use");
    drop(connection);
    scene.until_no_users().await;
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_given_up_in_time() {
    let mut scene = Scene::new().await;
    let logins = scene.client.logins(ROLE, None).await.unwrap();
    let manager = deadpool::Manager::new(logins).connect_timeout(Duration::from_millis(100));
    let pool = deadpool::Pool::builder(manager).build().unwrap();
    scene.cluster.stop();
    // The kernel takes connections for whoever listens.
    let _silent = std::net::TcpListener::bind(("127.0.0.1", scene.cluster.port())).unwrap();
    let error = pool.get().await.unwrap_err().to_string();
    assert!(error.contains("within 100ms"), "{error}");
}

#[tokio::test]
async fn a_role_that_may_not_be_had_is_refused_before_there_is_a_pool() {
    let scene = Scene::new().await;
    let error = scene.client.logins("databases/shop/roles/absent", None).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().reason, Reason::DatabaseRoleNotFound, "{error}");
    let error = scene.client.logins("stores/shop/secrets/reader", None).await.unwrap_err();
    assert!(matches!(error, Error::Name(_)), "{error}");
    let error = scene.client.logins(ROLE, Some(Duration::ZERO)).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().reason, Reason::InvalidArgument, "{error}");
}
