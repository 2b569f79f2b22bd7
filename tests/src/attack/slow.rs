//! Peers that take their time.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use hyper::body::{Body, Frame};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

use keyferry_proto::v1::{BatchGetSecretsRequest, GetSecretRequest};

use super::frames::{CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, frame, head, message};
use super::peer::Target;

const BATCH: &str = "/keyferry.v1.SecretService/BatchGetSecrets";
const ADD: &str = "/keyferry.v1.SecretService/AddSecretVersion";
/// Of the most that one answer may hold.
const LARGE_PER_ANSWER: usize = 15;
const CALLS: u32 = 100;
const BYTE_EVERY: Duration = Duration::from_millis(50);
const HELD: usize = 250 << 10;

/// What the attackers read.
pub(super) fn large_secrets() -> impl Iterator<Item = String> {
    (0..LARGE_PER_ANSWER).map(|number| format!("stores/local/secrets/large-{number}"))
}

/// Half of them wait with their first byte taken, half as JSON with none.
pub(super) async fn untaken_answers(target: &Target, began: impl FnOnce()) -> io::Result<()> {
    let mut taking_one = target.caller(1).await?;
    let mut taking_none = target.caller(0).await?;
    began();
    let requests = large_secrets().map(|name| GetSecretRequest { name, ..GetSecretRequest::default() }).collect();
    let batch = BatchGetSecretsRequest { requests }.encode_to_vec();
    let each: Vec<_> = large_secrets().map(|name| format!("{{\"name\":\"{name}\"}}")).collect();
    let json = format!("{{\"requests\":[{}]}}", each.join(","));
    for stream in (0..CALLS).map(|call| 2 * call + 1) {
        let sent = message(batch.len(), &batch);
        taking_one.send(&call(stream, "application/grpc", &sent)).await?;
        taking_none.send(&call(stream, "application/json", json.as_bytes())).await?;
    }
    tokio::join!(taking_one.end(), taking_none.end());
    Ok(())
}

fn call(stream: u32, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = frame(HEADERS, END_HEADERS, stream, &head(BATCH, content_type));
    [head, frame(DATA, END_STREAM, stream, body)].concat()
}

/// As much of each message as the broker takes, and never the rest.
pub(super) async fn held_requests(target: &Target, began: impl FnOnce()) -> io::Result<()> {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(target.secured().await?))
        .await
        .map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    began();
    while !connection.is_finished() {
        let calls = (0..CALLS).map(|_| {
            let request = Request::post(format!("https://keyferry.test{ADD}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            let begun = Bytes::from(message(HELD + 1, &vec![0; HELD]));
            sender.clone().send_request(request.body(Held { begun }).unwrap())
        });
        join_all(calls).await;
    }
    Ok(())
}

struct Held {
    begun: Bytes,
}

impl Body for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.begun.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.begun)))))
    }
}

pub(super) async fn silence(address: SocketAddr, began: impl FnOnce()) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    began();
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}

pub(super) async fn handshake(target: &Target, began: impl FnOnce()) -> io::Result<()> {
    let mut stream = TcpStream::connect(target.grpc).await?;
    began();
    // A record of a ClientHello of half a KiB.
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[0; 501]].concat();
    drip(&mut stream, &hello).await
}

pub(super) async fn silent_caller(target: &Target, began: impl FnOnce()) -> io::Result<()> {
    let mut stream = target.secured().await?;
    began();
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}

pub(super) async fn headers(target: &Target, began: impl FnOnce()) -> io::Result<()> {
    let mut peer = target.caller(65_535).await?;
    began();
    let block = head(BATCH, "application/grpc");
    peer.send(&frame(HEADERS, 0, 1, &[])).await?;
    for byte in block.chunks(1).cycle() {
        sleep(BYTE_EVERY).await;
        peer.send(&frame(CONTINUATION, 0, 1, byte)).await?;
    }
    Ok(())
}

pub(super) async fn web_headers(target: &Target, began: impl FnOnce()) -> io::Result<()> {
    let mut stream = target.http_1().await?;
    began();
    drip(&mut stream, &b"GET / HTTP/1.1\r\nhost: keyferry.test\r\nx-y: ".repeat(100)).await
}

async fn drip(
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    bytes: &[u8],
) -> io::Result<()> {
    for byte in bytes.chunks(1) {
        stream.write_all(byte).await?;
        stream.flush().await?;
        let mut answer = [0; 64];
        tokio::select! {
            read = stream.read(&mut answer) => if read? == 0 { return Ok(()) },
            () = sleep(BYTE_EVERY) => {}
        }
    }
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}

/// Answers the broker's pings, as any good client.
pub(super) async fn idle(target: &Target, began: impl FnOnce()) -> io::Result<()> {
    let stream = TokioIo::new(target.secured().await?);
    let (_sender, connection) =
        http2::handshake::<_, _, Held>(TokioExecutor::new(), stream).await.map_err(io::Error::other)?;
    began();
    connection.await.map_err(io::Error::other)
}
