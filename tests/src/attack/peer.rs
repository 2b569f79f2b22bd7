//! One connection of an attacker, who writes its bytes as he likes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::frames::preface;
use crate::pki::{Ca, Issued};
use crate::tls;

/// What attackers know of their target.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) grpc: SocketAddr,
    pub(super) web: SocketAddr,
    pub(super) admin: SocketAddr,
    /// With a client's certificate, and without.
    known: Arc<ClientConfig>,
    stranger: Arc<ClientConfig>,
}

#[derive(Debug)]
pub(super) struct Peer {
    writer: WriteHalf<TlsStream<TcpStream>>,
    /// Whatever the broker answers is read and thrown away, so that nothing but the broker holds it up.
    ended: watch::Receiver<bool>,
}

impl Target {
    pub(super) fn new([grpc, web, admin]: [SocketAddr; 3], ca: &Ca, attacker: &Issued) -> Self {
        let (known, stranger) = (Arc::new(tls::config(ca, Some(attacker))), Arc::new(tls::config(ca, None)));
        Self { grpc, web, admin, known, stranger }
    }

    /// A caller with a certificate.
    pub(super) async fn caller(&self, window: u32) -> io::Result<Peer> {
        Peer::speaking(self.secured().await?, window).await
    }

    /// Nobody in particular, at the port that asks for no certificate.
    pub(super) async fn stranger(&self) -> io::Result<Peer> {
        Peer::speaking(shake(self.web, &self.stranger).await?, 65_535).await
    }

    /// The same, to speak HTTP/1.
    pub(super) async fn http_1(&self) -> io::Result<TlsStream<TcpStream>> {
        let mut config = ClientConfig::clone(&self.stranger);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        shake(self.web, &Arc::new(config)).await
    }

    /// A caller that has not spoken yet.
    pub(super) async fn secured(&self) -> io::Result<TlsStream<TcpStream>> {
        shake(self.grpc, &self.known).await
    }
}

impl Peer {
    async fn speaking(stream: TlsStream<TcpStream>, window: u32) -> io::Result<Self> {
        let (reader, mut writer) = tokio::io::split(stream);
        writer.write_all(&preface(window)).await?;
        let (end, ended) = watch::channel(false);
        tokio::spawn(async move {
            drain(reader).await;
            let _ = end.send(true);
        });
        Ok(Self { writer, ended })
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes).await?;
        self.writer.flush().await?;
        if *self.ended.borrow() { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }

    /// Until the broker ends the connection.
    pub(super) async fn end(&mut self) {
        let _ = self.ended.wait_for(|ended| *ended).await;
    }
}

async fn drain(mut reader: ReadHalf<TlsStream<TcpStream>>) {
    let mut buffer = vec![0; 64 << 10];
    while reader.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {}
}

async fn shake(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("keyferry.test").unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}
