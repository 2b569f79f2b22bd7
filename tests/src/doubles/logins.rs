//! What stands before a PostgreSQL in a cloud: TLS, a login that the cloud decides about, and then the server itself.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::postgres::Cluster;

/// Serves until dropped. Whoever is let in continues with the real server as the user that it named.
#[derive(Debug)]
pub struct Logins {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

/// What a client shows.
#[derive(Debug)]
pub struct Attempt {
    pub user: String,
    /// In DER; one that the listener's TLS trusts.
    pub certificate: Option<Vec<u8>>,
    /// Asked for only where there is no certificate.
    pub password: Option<String>,
}

/// Who lets a client in, or says why not.
pub type Judge = Arc<dyn Fn(&Attempt) -> Result<(), String> + Send + Sync>;

#[derive(Clone)]
struct Door {
    tls: TlsAcceptor,
    judge: Judge,
    /// The socket on which the server trusts whoever comes.
    behind: PathBuf,
}

const SSL_REQUEST: i32 = 80_877_103;
const LARGEST_MESSAGE: i32 = 64 * 1024;

impl Logins {
    pub fn serve(listener: TcpListener, tls: ServerConfig, judge: Judge, cluster: Option<&Cluster>) -> Self {
        let address = listener.local_addr().unwrap();
        let behind = cluster.map(|cluster| cluster.path().join(format!(".s.PGSQL.{}", cluster.port())));
        let behind = behind.unwrap_or_default();
        let door = Door { tls: TlsAcceptor::from(Arc::new(tls)), judge, behind };
        let accepting = tokio::spawn(async move {
            // Owned here, so that no connection outlives the listener.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(door.clone().welcome(stream));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, accepting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Logins {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Door").field(&self.behind).finish()
    }
}

impl Door {
    /// A client may leave at any time, which is not the double's failure.
    async fn welcome(self, mut stream: TcpStream) -> Option<()> {
        let mut first = [0];
        stream.peek(&mut first).await.ok()?;
        // A connector begins with TLS, a driver asks for it in PostgreSQL's own words first.
        let begins_with_tls = first == [0x16];
        if !begins_with_tls {
            if !is_ssl_request(&message(&mut stream).await?) {
                return refuse(&mut stream, "no encryption").await;
            }
            stream.write_all(b"S").await.ok()?;
        }
        let mut stream = self.tls.accept(stream).await.ok()?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificate.map(|leaf| leaf.to_vec());
        let mut startup = message(&mut stream).await?;
        if is_ssl_request(&startup) {
            // A driver that knows nothing of its connector's TLS asks for some, and is told that there is no more.
            stream.write_all(b"N").await.ok()?;
            startup = message(&mut stream).await?;
        }
        let user = user_in(&startup)?;
        let password = match certificate {
            Some(_) => None,
            None => Some(ask_password(&mut stream).await?),
        };
        let attempt = Attempt { user, certificate, password };
        if let Err(why) = (self.judge)(&attempt) {
            return refuse(&mut stream, &why).await;
        }
        let mut server = UnixStream::connect(&self.behind).await.ok()?;
        server.write_all(&startup).await.ok()?;
        copy_bidirectional(&mut stream, &mut server).await.ok().map(drop)
    }
}

/// With its length before it, as it came.
async fn message(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let length = stream.read_i32().await.ok().filter(|length| (4..LARGEST_MESSAGE).contains(length))?;
    let mut message = length.to_be_bytes().to_vec();
    message.resize(usize::try_from(length).ok()?, 0);
    stream.read_exact(&mut message[4..]).await.ok()?;
    Some(message)
}

fn is_ssl_request(message: &[u8]) -> bool {
    message.len() == 8 && message[4..] == SSL_REQUEST.to_be_bytes()
}

fn user_in(startup: &[u8]) -> Option<String> {
    let mut texts = startup.get(8..)?.split(|byte| *byte == 0);
    while let (Some(key), Some(value)) = (texts.next(), texts.next()) {
        if key == b"user" {
            return String::from_utf8(value.to_vec()).ok();
        }
    }
    None
}

/// In clear text, as the clouds ask for tokens.
async fn ask_password(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Option<String> {
    stream.write_all(&[b'R', 0, 0, 0, 8, 0, 0, 0, 3]).await.ok()?;
    if stream.read_u8().await.ok()? != b'p' {
        return None;
    }
    let message = message(stream).await?;
    String::from_utf8(message.get(4..message.len() - 1)?.to_vec()).ok()
}

async fn refuse(stream: &mut (impl AsyncWrite + Unpin), why: &str) -> Option<()> {
    let fields = format!("SFATAL\0VFATAL\0C28P01\0M{why}\0\0");
    let length = i32::try_from(fields.len() + 4).ok()?;
    stream.write_all(b"E").await.ok()?;
    stream.write_all(&length.to_be_bytes()).await.ok()?;
    stream.write_all(fields.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}
