//! A load generator: the same call over and over, on connections that one thread looks after without ever sleeping.
//!
//! Two ways to ask. A closed loop has so many calls under way at all times: it finds what a server can do. An open loop
//! asks at times that were fixed beforehand, and counts an answer's delay from the time its call was due: a server that
//! stalls then shows it in every call that the stall put off, sent or not.

mod connection;
mod histogram;
mod http1;
mod http2;
mod request;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use self::connection::Connection;
pub use self::histogram::Histogram;
use self::http1::Http1;
use self::http2::Http2;
pub use self::request::Request;
use crate::Outcome;

/// How long calls may take that are under way when a measurement ends.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// Who is asked, and how. The names of files are those that the tests' CA writes.
#[derive(Clone, Debug)]
pub struct Server<'a> {
    pub port: u16,
    pub name: &'a str,
    pub ca: &'a str,
    /// Certificate and key of the caller.
    pub identity: Option<(&'a str, &'a str)>,
    pub protocol: Protocol,
}

/// Connections to one server.
pub struct Load {
    clients: Vec<Client>,
    begun: Instant,
    answers: Vec<Answer>,
}

/// What came of a measurement.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Right answers, and wrong or missing ones.
    pub right: u64,
    pub wrong: u64,
    pub seconds: f64,
    /// Of the right ones.
    pub delays: Histogram,
}

/// Until when a closed loop asks.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    Elapsed(Duration),
    Answered(u64),
}

impl Load {
    pub fn open(server: &Server<'_>, request: &Request, connections: usize) -> Outcome<Self> {
        let tls = Arc::new(tls(server)?);
        let clients = (0..connections).map(|_| Client::open(server, request, Arc::clone(&tls)));
        Ok(Self { clients: clients.collect::<Outcome<_>>()?, begun: Instant::now(), answers: Vec::new() })
    }

    pub fn closed(&mut self, in_flight: usize, until: Until) -> Outcome<Measured> {
        let (begun, mut measured, mut asked) = (self.now(), Measured::default(), 0);
        let goes_on = |now: u64, asked: u64| match until {
            Until::Elapsed(time) => now - begun < nanoseconds(time),
            Until::Answered(count) => asked < count,
        };
        let count = self.clients.len();
        for place in 0..in_flight {
            self.clients[place % count].due.push_back(begun);
            asked += 1;
        }
        let mut last_heard = begun;
        loop {
            let mut under_way = 0;
            for index in 0..count {
                self.look(index)?;
                let now = self.now();
                for answer in self.answers.drain(..) {
                    last_heard = now;
                    measured.record(answer, now);
                    if goes_on(now, asked) {
                        self.clients[index].due.push_back(now);
                        asked += 1;
                    }
                }
                self.clients[index].pump()?;
                under_way += self.clients[index].under_way();
            }
            let now = self.now();
            if under_way == 0 {
                return Ok(measured.over(now - begun));
            }
            if now - last_heard > nanoseconds(PATIENCE) {
                return Err(format!("{under_way} calls had no answer within {PATIENCE:?}").into());
            }
        }
    }

    /// `rate` calls a second, evenly spaced. A call without an answer when patience ends counts as wrong, and ends
    /// these connections' use.
    pub fn open_loop(&mut self, rate: f64, during: Duration) -> Outcome<Measured> {
        let (begun, mut measured) = (self.now(), Measured::default());
        let (interval, all) = (1e9 / rate, (rate * during.as_secs_f64()) as u64);
        let due = |number: u64| begun + (number as f64 * interval) as u64;
        let (count, mut next) = (self.clients.len(), 0);
        let end = due(all) + nanoseconds(PATIENCE);
        loop {
            let now = self.now();
            while next < all && due(next) <= now {
                self.clients[next as usize % count].due.push_back(due(next));
                next += 1;
            }
            let mut under_way = 0;
            for index in 0..count {
                self.clients[index].pump()?;
                self.look(index)?;
                let now = self.now();
                for answer in self.answers.drain(..) {
                    measured.record(answer, now);
                }
                under_way += self.clients[index].under_way();
            }
            if next == all && under_way == 0 {
                return Ok(measured.over(self.now() - begun));
            }
            if now > end {
                measured.wrong += under_way as u64;
                return Ok(measured.over(now - begun));
            }
        }
    }

    fn look(&mut self, index: usize) -> Outcome<()> {
        self.clients[index].hear(&mut self.answers)
    }

    /// Nanoseconds since a beginning of its own.
    fn now(&self) -> u64 {
        nanoseconds(self.begun.elapsed())
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load").field("connections", &self.clients.len()).finish_non_exhaustive()
    }
}

impl Measured {
    fn record(&mut self, answer: Answer, now: u64) {
        if answer.is_right {
            self.right += 1;
            self.delays.record(now.saturating_sub(answer.since));
        } else {
            self.wrong += 1;
        }
    }

    fn over(mut self, time: u64) -> Self {
        self.seconds = time as f64 / 1e9;
        self
    }

    /// Right answers a second.
    pub fn rate(&self) -> f64 {
        self.right as f64 / self.seconds
    }
}

/// A connection with the calls that are due on it: a protocol may have no place for them yet.
struct Client {
    connection: Connection,
    peer: Box<dyn Peer>,
    due: VecDeque<u64>,
    asked: usize,
    out: Vec<u8>,
    heard: Vec<u8>,
}

impl Client {
    fn open(server: &Server<'_>, request: &Request, tls: Arc<ClientConfig>) -> Outcome<Self> {
        let mut out = Vec::new();
        let peer: Box<dyn Peer> = match server.protocol {
            Protocol::Http1 => Box::new(Http1::new(request, server.name)),
            Protocol::Http2 => Box::new(Http2::new(request, server.name, &mut out)),
        };
        let connection = Connection::open(server.port, server.name, tls)?;
        Ok(Self { connection, peer, due: VecDeque::new(), asked: 0, out, heard: Vec::new() })
    }

    /// Sends what is due, all in one.
    fn pump(&mut self) -> Outcome<()> {
        for _ in 0..self.peer.places() {
            let Some(since) = self.due.pop_front() else { break };
            self.peer.ask(since, &mut self.out);
            self.asked += 1;
        }
        if !self.out.is_empty() || self.connection.has_unsent() {
            self.connection.send(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }

    fn hear(&mut self, answers: &mut Vec<Answer>) -> Outcome<()> {
        let before = self.heard.len();
        self.connection.receive(&mut self.heard)?;
        if self.heard.len() > before {
            let taken = self.peer.hear(&self.heard, &mut self.out, answers)?;
            self.heard.drain(..taken);
            self.asked -= answers.len();
        }
        Ok(())
    }

    fn under_way(&self) -> usize {
        self.asked + self.due.len()
    }
}

/// The other end of a connection, in the terms of its protocol.
trait Peer {
    /// How many more calls can be under way.
    fn places(&self) -> usize;
    fn ask(&mut self, since: u64, out: &mut Vec<u8>);
    /// Takes what is whole of the bytes heard, and tells how much that was. What the protocol wants said goes to `out`.
    fn hear(&mut self, heard: &[u8], out: &mut Vec<u8>, answers: &mut Vec<Answer>) -> Outcome<usize>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    since: u64,
    is_right: bool,
}

fn tls(server: &Server<'_>) -> Outcome<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.ca.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots);
    let mut config = match server.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes())?],
            PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        )?,
    };
    let protocol: &[u8] = match server.protocol {
        Protocol::Http1 => b"http/1.1",
        Protocol::Http2 => b"h2",
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
