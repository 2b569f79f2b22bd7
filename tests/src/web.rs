//! A client of the web port, as senders of events and databases are: HTTPS, and no certificate of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::pki::Ca;
use crate::tls;

/// Sends one request over a connection of its own, HTTP/1 as most senders speak it.
pub async fn send(address: SocketAddr, ca: &Ca, mut request: Request<Bytes>) -> Response<Bytes> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(connect(address, ca, b"http/1.1").await)).await.unwrap();
    tokio::spawn(connection);
    request.headers_mut().insert("host", "keyferry.test".parse().unwrap());
    let answer = sender.send_request(request.map(Full::new)).await.unwrap();
    collected(answer).await
}

/// The same over HTTP/2.
pub async fn send_http2(address: SocketAddr, ca: &Ca, mut request: Request<Bytes>) -> Response<Bytes> {
    let stream = TokioIo::new(connect(address, ca, b"h2").await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    *request.uri_mut() = format!("https://keyferry.test{}", request.uri()).parse().unwrap();
    collected(sender.send_request(request.map(Full::new)).await.unwrap()).await
}

pub async fn connect(address: SocketAddr, ca: &Ca, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut config = tls::config(ca, None);
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("keyferry.test").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

async fn collected(answer: Response<hyper::body::Incoming>) -> Response<Bytes> {
    let (head, body) = answer.into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}
