//! A token that somebody presents, judged as the clouds judge it: by the keys that its issuer publishes.

use std::time::Duration;

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use keyferry_broker::clock::Timestamp;
use serde_json::Value;
use tokio::net::TcpStream;

/// Longer than any answer on loopback takes, shorter than whoever presented the token waits.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Presented {
    pub(super) claims: Value,
    header: Value,
    signed: String,
    signature: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distrust {
    IssuerUnreachable,
    UnknownKey,
    Signature,
    Outdated,
}

impl Presented {
    pub(super) fn parse(token: &str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let json = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        Some(Self { header: json(header)?, claims: json(claims)?, signed: signed.to_owned(), signature })
    }

    pub(super) fn claim(&self, name: &str) -> &str {
        self.claims[name].as_str().unwrap_or_default()
    }

    /// Whether one of the audiences, exactly, is among these.
    pub(super) fn is_for<T: AsRef<str>>(&self, accepted: &[T]) -> bool {
        let named = |audience: &Value| accepted.iter().any(|accepted| audience == accepted.as_ref());
        let audience = &self.claims["aud"];
        audience.as_array().map_or_else(|| named(audience), |audiences| audiences.iter().any(named))
    }

    /// By the keys that the discovery document of `issuer` leads to.
    pub(super) async fn verify(&self, issuer: &str, now: Timestamp) -> Result<(), Distrust> {
        let keys = tokio::time::timeout(PATIENCE, published_keys(issuer)).await.ok().flatten();
        self.verify_by(&keys.ok_or(Distrust::IssuerUnreachable)?, now)
    }

    pub(super) fn verify_by(&self, keys: &Value, now: Timestamp) -> Result<(), Distrust> {
        let keys = keys["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
        let key = keys.iter().find(|key| key["kid"] == self.header["kid"]).ok_or(Distrust::UnknownKey)?;
        let number = |member: &str| URL_SAFE_NO_PAD.decode(key[member].as_str()?).ok();
        let (n, e) = number("n").zip(number("e")).ok_or(Distrust::UnknownKey)?;
        if self.header["alg"] != "RS256" {
            return Err(Distrust::Signature);
        }
        RsaPublicKeyComponents { n, e }
            .verify(&RSA_PKCS1_2048_8192_SHA256, self.signed.as_bytes(), &self.signature)
            .map_err(|_| Distrust::Signature)?;
        let lives = self.claims["exp"].as_u64().is_some_and(|end| end > now.as_secs());
        if lives { Ok(()) } else { Err(Distrust::Outdated) }
    }
}

async fn published_keys(issuer: &str) -> Option<Value> {
    let discovered = fetch(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))).await?;
    if discovered["issuer"] != issuer {
        return None;
    }
    fetch(discovered["jwks_uri"].as_str()?).await
}

async fn fetch(url: &str) -> Option<Value> {
    let (host, path) = url.strip_prefix("http://")?.split_once('/')?;
    let stream = TcpStream::connect(host).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = http::Request::get(format!("/{path}")).header("host", host).body(Empty::<Bytes>::new()).ok()?;
    let exchange = async move {
        let answer = sender.send_request(request).await.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        serde_json::from_slice(&answer.into_body().collect().await.ok()?.to_bytes()).ok()
    };
    // The connection ends with the exchange, since the exchange owns its only sender.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}
