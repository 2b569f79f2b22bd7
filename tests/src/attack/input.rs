//! Messages that are more than they seem.

use std::io;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::frames::message;
use super::peer::Target;

const GRPC: &str = "application/grpc";
const JSON: &str = "application/json";
const GET: &str = "GetSecret";
const BATCH: &str = "BatchGetSecrets";

/// A request of `SecretService`.
#[derive(Clone, Debug)]
pub struct Bomb {
    pub method: &'static str,
    pub content_type: &'static str,
    pub body: Bytes,
}

/// One after the other, over and over.
pub(super) async fn throw(target: &Target, began: impl FnOnce()) -> io::Result<()> {
    let stream = TokioIo::new(target.secured().await?);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    began();
    let bombs = bombs();
    loop {
        for bomb in &bombs {
            let request = Request::post(format!("https://keyferry.test/keyferry.v1.SecretService/{}", bomb.method))
                .header("content-type", bomb.content_type)
                .header("te", "trailers")
                .body(Full::new(bomb.body.clone()))
                .unwrap();
            let answer = sender.send_request(request).await.map_err(io::Error::other)?;
            let _ = answer.into_body().collect().await;
        }
    }
}

/// As large as any request may be, and as one without a payload may be.
pub fn bombs() -> Vec<Bomb> {
    let mut all: Vec<_> = [255 << 10, 63 << 10].into_iter().flat_map(full).collect();
    // It claims four gigabytes; it is marked as compressed.
    all.push(Bomb::new(GET, GRPC, message(u32::MAX as usize, &[0; 64])));
    all.push(Bomb::new(GET, GRPC, [&[1][..], &message(8, &[0; 8])[1..]].concat()));
    all
}

fn full(size: usize) -> [Bomb; 6] {
    // Groups of field 15 within each other; empty requests; an unknown field over and over.
    let nested = vec![0x7b; size];
    let many = [0x0a, 0x00].repeat(size / 2);
    let unknown = [0x78, 0x01].repeat(size / 2);
    let array = [&b"{\"name\":"[..], &b"[".repeat(size - 8)].concat();
    let object = b"{\"requests\":[{\"maxAge\":".repeat(size / 24);
    let empty = [&b"{\"requests\":["[..], &b"{},".repeat(size / 3 - 8), b"{}]}"].concat();
    let framed = |bytes: &[u8]| message(bytes.len(), bytes);
    [
        Bomb::new(GET, GRPC, framed(&nested)),
        Bomb::new(BATCH, GRPC, framed(&many)),
        Bomb::new(GET, GRPC, framed(&unknown)),
        Bomb::new(GET, JSON, array),
        Bomb::new(BATCH, JSON, object),
        Bomb::new(BATCH, JSON, empty),
    ]
}

impl Bomb {
    fn new(method: &'static str, content_type: &'static str, body: Vec<u8>) -> Self {
        Self { method, content_type, body: body.into() }
    }
}
