use std::net::SocketAddr;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use super::*;
use crate::admin::Overview;
use crate::clock::SystemClock;
use crate::telemetry::Metrics;

const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    at: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
    obstacles: Arc<Mutex<Vec<String>>>,
}

async fn start(change: impl FnOnce(Admin) -> Admin) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let obstacles: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&obstacles);
    let metrics = Metrics::new(["a.B/C"], [], Arc::new(SystemClock));
    let pages = Pages::new(metrics, move || seen.lock().unwrap().clone(), Overview::default);
    let admin = change(Admin::new(pages));
    let stop = CancellationToken::new();
    let task = tokio::spawn(admin.serve(listener, stop.clone()));
    Running { at, stop, task, obstacles }
}

impl Running {
    /// Everything it answers until it closes.
    async fn say(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.at).await.unwrap();
        // It may close on us while we still talk.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it closes");
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn get(&self, path: &str) -> String {
        self.request("GET", path).await
    }

    async fn request(&self, method: &str, path: &str) -> String {
        self.say(format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await
    }
}

#[tokio::test]
async fn answers_its_three_pages() {
    let admin = start(|admin| admin).await;
    let alive = admin.get("/healthz").await;
    assert!(alive.starts_with("HTTP/1.1 200 ") && alive.ends_with("\r\n\r\nok\n"), "{alive}");
    assert!(
        alive.contains("cache-control: no-store\r\n") && alive.contains("x-content-type-options: nosniff\r\n"),
        "{alive}"
    );
    assert!(admin.get("/readyz").await.ends_with("ready\n"));
    let metrics = admin.get("/metrics").await;
    assert!(metrics.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{metrics}");
    assert!(metrics.contains("\nkeyferry_build_info{version=\""), "{metrics}");
}

#[tokio::test]
async fn is_not_ready_with_each_reason_on_its_line() {
    let admin = start(|admin| admin).await;
    admin.obstacles.lock().unwrap().extend(["draining".to_owned(), "audit failing".to_owned()]);
    let answer = admin.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\ndraining\naudit failing\n"), "{answer}");
    assert!(admin.get("/healthz").await.starts_with("HTTP/1.1 200 "), "it is alive nonetheless");
    admin.obstacles.lock().unwrap().clear();
    assert!(admin.get("/readyz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn refuses_other_pages_and_methods() {
    let admin = start(|admin| admin).await;
    for path in ["/status", "/metrics/", "/Metrics", "/../metrics", "/healthz%00", "*"] {
        assert!(admin.get(path).await.starts_with("HTTP/1.1 40"), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"] {
        let answer = admin.request(method, "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    }
    let head = admin.request("HEAD", "/healthz").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn shows_its_status_page_to_browsers_that_know_where_they_are() {
    let admin = start(|admin| admin).await;
    for host in ["localhost", "LOCALHOST:7445", "127.0.0.1", "127.0.0.1:7445", "[::1]:7445"] {
        let page = admin.say(format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes()).await;
        assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("<title>"), "{host}: {page}");
        assert!(page.contains("content-security-policy: default-src 'none'"), "{page}");
    }
    for host in
        ["rebound.example", "127.0.0.1.rebound.example", "192.0.2.1", "", "local host", "localhost@rebound.example"]
    {
        let page = admin.say(format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes()).await;
        assert!(page.starts_with("HTTP/1.1 4") && !page.contains("<title>"), "{host}: {page}");
    }
}

#[tokio::test]
async fn collectors_call_it_by_any_name_and_browsers_by_this_host_s() {
    let admin = start(|admin| admin).await;
    let ask = async |path: &str, host: &str, more: &str| {
        admin.say(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{more}connection: close\r\n\r\n").as_bytes()).await
    };
    assert!(ask("/metrics", "broker-0:7445", "user-agent: Prometheus/3.0\r\n").await.starts_with("HTTP/1.1 200 "));
    for browser in
        ["user-agent: Mozilla/5.0 (X11)\r\n", "origin: http://rebound.example\r\n", "sec-fetch-site: none\r\n"]
    {
        assert!(ask("/metrics", "localhost:7445", browser).await.starts_with("HTTP/1.1 200 "), "{browser}");
        for path in ["/metrics", "/healthz", "/status.js"] {
            let answer = ask(path, "rebound.example:7445", browser).await;
            assert!(answer.starts_with("HTTP/1.1 421 "), "{path} {browser}: {answer}");
        }
    }
}

#[tokio::test]
async fn survives_bad_input() {
    let admin = start(|admin| admin).await;
    let mut huge = b"GET /healthz HTTP/1.1\r\nhost: x\r\nfill: ".to_vec();
    huge.resize(huge.len() + 1_000_000, b'x');
    let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1_000));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    let garbage: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let smuggled = b"GET /healthz HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc";
    for bad in
        [&huge[..], many.as_bytes(), long.as_bytes(), &garbage, tls, smuggled, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let answer = admin.say(bad).await;
        assert!(!answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert!(admin.get("/healthz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn closes_on_whoever_does_not_finish_its_request() {
    let hasty = |admin| Admin { head_timeout: Duration::from_millis(100), ..admin };
    let admin = start(hasty).await;
    for unfinished in ["", "GET /heal", "GET /healthz HTTP/1.1\r\nhost: x\r\n"] {
        let answer = admin.say(unfinished.as_bytes()).await;
        assert!(!answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    let idle = admin.say(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(idle.starts_with("HTTP/1.1 200 "), "answered, then closed because nothing more came: {idle}");
}

#[tokio::test]
async fn serves_again_once_idlers_that_took_all_room_are_gone() {
    let hasty = |admin| Admin { head_timeout: Duration::from_millis(200), ..admin };
    let admin = start(hasty).await;
    let mut idlers = Vec::new();
    for _ in 0..CONNECTIONS + 10 {
        idlers.push(TcpStream::connect(admin.at).await.unwrap());
    }
    assert!(admin.get("/healthz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn ends_when_stopped_although_clients_linger() {
    let admin = start(|admin| admin).await;
    let _lingering = TcpStream::connect(admin.at).await.unwrap();
    assert!(admin.get("/healthz").await.starts_with("HTTP/1.1 200 "));
    admin.stop.cancel();
    timeout(PATIENCE, admin.task).await.expect("it ends").unwrap();
}
