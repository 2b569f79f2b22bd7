//! Roles whose logins are all the same user with one token after another, as CockroachDB has them. The cluster is a double that
//! speaks as much of PostgreSQL's protocol as a pool needs.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyferry_broker::clock::SystemClock;
use keyferry_client::pool::deadpool;
use keyferry_client::{Client, Logins};
use keyferry_tests::broker::{TestBroker, prepare};
use keyferry_tests::pki::Ca;
use keyferry_tests::tls;
use rcgen::KeyPair;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use crate::options;

const POLICY: &str = r#"
@id("clients-mint")
permit (principal, action in [Keyferry::Action::"Mint"], resource in Keyferry::Database::"orders")
when { principal has certificate && principal.certificate has spiffe && principal.certificate.spiffe.path == "/client" };
"#;

/// What each login said: the session's options, and its token.
type Seen = Arc<Mutex<Vec<(String, String)>>>;

struct Scene {
    _broker: TestBroker,
    _cluster: JoinHandle<()>,
    seen: Seen,
    logins: Logins,
}

impl Scene {
    async fn new() -> Self {
        let (directory, ca) = (TempDir::new().unwrap(), Ca::new("test CA"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let configuration = format!(
            r#"
[issuer]
url = "https://127.0.0.1:1"
signing_key = "stores/local/secrets/issuer-key"
refresh_interval = "1s"

[databases.orders]
kind = "cockroach"
host = "127.0.0.1"
database = "orders"
port = {}
ca = "ca.pem"
audience = "orders"

[databases.orders.roles.app]
user = "app"
"#,
            listener.local_addr().unwrap().port()
        );
        prepare(directory.path(), &ca, &configuration);
        std::fs::write(directory.path().join("policy/mint.cedar"), POLICY).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls::server(&ca.server("localhost"))));
        let broker = TestBroker::start_in(directory, ca, Arc::new(SystemClock)).await;
        broker.put("issuer-key", KeyPair::generate().unwrap().serialize_pem().as_bytes(), &[]).await;
        let client = Client::connect(options(&broker, &broker.client)).await.unwrap();
        let logins = loop {
            // Until the key signs.
            if let Ok(logins) = client.logins("databases/orders/roles/app", Some(Duration::from_secs(2))).await {
                break logins;
            }
            sleep(Duration::from_millis(10)).await;
        };
        let seen = Seen::default();
        let cluster = tokio::spawn(serve(listener, acceptor, Arc::clone(&seen)));
        Self { _broker: broker, _cluster: cluster, seen, logins }
    }

    /// Asks until connections have been made with three tokens.
    async fn asks_with_one_token_after_another(&self, ask: impl AsyncFn() -> String) {
        while tokens(&self.seen.lock().unwrap()) < 3 {
            assert_eq!(ask().await, "app");
            sleep(Duration::from_millis(5)).await;
        }
        let seen = self.seen.lock().unwrap();
        assert_eq!(seen.len(), tokens(&seen), "one connection for each");
        assert!(seen.iter().all(|(options, _)| options.ends_with("crdb:jwt_auth_enabled=true")), "{:?}", seen[0].0);
    }
}

fn tokens(seen: &[(String, String)]) -> usize {
    seen.iter().map(|(_, token)| token).collect::<BTreeSet<_>>().len()
}

#[tokio::test]
async fn a_pool_of_deadpool_takes_the_next_token_though_the_user_is_the_same() {
    let scene = Scene::new().await;
    let manager = deadpool::Manager::new(scene.logins.clone());
    let pool = deadpool::Pool::builder(manager).max_size(1).build().unwrap();
    scene
        .asks_with_one_token_after_another(async || {
            let connection = pool.get().await.unwrap();
            connection.query_one("SELECT session_user::text", &[]).await.unwrap().get(0)
        })
        .await;
}

#[cfg(feature = "sqlx")]
#[tokio::test]
async fn a_pool_of_sqlx_takes_the_next_token_though_the_user_is_the_same() {
    use keyferry_client::pool::sqlx::Pool;
    use sqlx::postgres::PgPoolOptions;

    let scene = Scene::new().await;
    let pool = Pool::new(scene.logins.clone(), PgPoolOptions::new().max_connections(1));
    scene
        .asks_with_one_token_after_another(async || {
            sqlx::query_scalar("SELECT session_user::text").fetch_one(&*pool).await.unwrap()
        })
        .await;
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, seen: Seen) {
    while let Ok((stream, _)) = listener.accept().await {
        // Pools come and go as they like.
        tokio::spawn(session(stream, acceptor.clone(), Arc::clone(&seen)));
    }
}

async fn session(mut stream: TcpStream, acceptor: TlsAcceptor, seen: Seen) -> io::Result<()> {
    // It asks for TLS.
    stream.read_exact(&mut [0; 8]).await?;
    stream.write_all(b"S").await?;
    let mut stream = acceptor.accept(stream).await?;
    let startup = body(&mut stream).await?;
    let words: Vec<_> = startup[4..].split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let value = |name: &str| words.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1].to_string());
    let user = value("user").unwrap();
    // A password in clear text.
    say(&mut stream, b'R', &3_i32.to_be_bytes()).await?;
    stream.read_u8().await?;
    let token = String::from_utf8(body(&mut stream).await?).unwrap();
    seen.lock().unwrap().push((value("options").unwrap_or_default(), token));
    say(&mut stream, b'R', &0_i32.to_be_bytes()).await?;
    say(&mut stream, b'Z', b"I").await?;
    loop {
        let kind = stream.read_u8().await?;
        body(&mut stream).await?;
        match kind {
            b'P' => say(&mut stream, b'1', b"").await?,
            b'B' => say(&mut stream, b'2', b"").await?,
            b'C' => say(&mut stream, b'3', b"").await?,
            b'D' => {
                say(&mut stream, b't', &0_i16.to_be_bytes()).await?;
                // One column of text.
                let column = [b"user\0".as_slice(), &[0; 6], &25_i32.to_be_bytes(), &[255; 6], &[0; 2]].concat();
                say(&mut stream, b'T', &[&1_i16.to_be_bytes(), &*column].concat()).await?;
            }
            b'E' => {
                let length = i32::try_from(user.len()).unwrap();
                let row = [&1_i16.to_be_bytes()[..], &length.to_be_bytes(), user.as_bytes()].concat();
                say(&mut stream, b'D', &row).await?;
                say(&mut stream, b'C', b"SELECT 1\0").await?;
            }
            b'S' => say(&mut stream, b'Z', b"I").await?,
            b'X' => return Ok(()),
            _ => {}
        }
        stream.flush().await?;
    }
}

async fn body(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = usize::try_from(stream.read_i32().await?).unwrap();
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), kind: u8, body: &[u8]) -> io::Result<()> {
    stream.write_u8(kind).await?;
    stream.write_i32(i32::try_from(body.len() + 4).unwrap()).await?;
    stream.write_all(body).await?;
    stream.flush().await
}
