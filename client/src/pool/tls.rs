//! TLS towards a database as the broker describes it: its chain and its name are always verified.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use keyferry_proto::v1::DatabaseConnection;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

use crate::credentials::{self, CredentialsError};

/// Why no TLS is tried.
#[derive(Debug, Error)]
pub enum HandshakeError {
    #[error("the CAs that the broker names for the database cannot be used; see its configuration")]
    Roots(#[from] CredentialsError),
    #[error("\"{0}\" can be no server's name; see the database in the broker's configuration")]
    Name(String),
}

/// One handshake to be.
pub(super) struct Handshake {
    connector: TlsConnector,
    name: ServerName<'static>,
}

pub(super) struct Stream(tokio_rustls::client::TlsStream<TcpStream>);

impl Handshake {
    pub(super) fn with(connection: &DatabaseConnection) -> Result<Self, HandshakeError> {
        let DatabaseConnection { host, tls_server_name, ca_pem, .. } = connection;
        let roots = if ca_pem.is_empty() { credentials::system_roots() } else { credentials::roots(ca_pem.as_bytes()) };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(CredentialsError::Unusable)?
            .with_root_certificates(roots?)
            .with_no_client_auth();
        let name = if tls_server_name.is_empty() { host } else { tls_server_name };
        let name = ServerName::try_from(name.clone()).map_err(|_| HandshakeError::Name(name.clone()))?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }
}

impl TlsConnect<TcpStream> for Handshake {
    type Stream = Stream;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Stream>>;

    fn connect(self, stream: TcpStream) -> Self::Future {
        Box::pin(async move { self.connector.connect(self.name, stream).await.map(Stream) })
    }
}

impl TlsStream for Stream {
    // The chain and the name are verified, which is what binding would add where they are not.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
