//! A TCP proxy that cuts connections at will.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Passes bytes on until told otherwise; ends with its connections when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    server: Arc<AtomicU16>,
    mood: Arc<watch::Sender<Mood>>,
    listening: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Passing,
    /// Whatever is or gets connected is cut.
    Cutting,
    /// Connections stay, and nothing that is said on them arrives.
    Holding,
    /// The server hears everything; where it answers, the connection is cut instead.
    SwallowingAnswers,
    /// The client hears everything; where it says something, the connection is cut instead.
    SwallowingRequests,
}

impl Proxy {
    /// On a free port of `host`, towards `port` of this host.
    pub async fn start(host: &str, port: u16) -> Self {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mood = Arc::new(watch::Sender::new(Mood::Passing));
        let moods = Arc::clone(&mood);
        let server = Arc::new(AtomicU16::new(port));
        let servers = Arc::clone(&server);
        let listening = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(pass(client, servers.load(Ordering::Relaxed), moods.subscribe()));
            }
        });
        Self { address, server, mood, listening }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Where connections lead from now on.
    pub fn lead_to(&self, port: u16) {
        self.server.store(port, Ordering::Relaxed);
    }

    pub fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// For whoever changes it from elsewhere.
    pub fn mood(&self) -> Arc<watch::Sender<Mood>> {
        Arc::clone(&self.mood)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn pass(client: TcpStream, port: u16, mut mood: watch::Receiver<Mood>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let [requests, answers] = [mood.clone(), mood.clone()];
    tokio::select! {
        _ = mood.wait_for(|mood| *mood == Mood::Cutting) => {}
        () = copy(from_client, to_server, requests, Mood::SwallowingRequests) => {}
        () = copy(from_server, to_client, answers, Mood::SwallowingAnswers) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mood: watch::Receiver<Mood>, swallows: Mood) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let passes = mood.wait_for(|mood| *mood != Mood::Holding).await.is_ok_and(|mood| *mood != swallows);
        if !passes || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
