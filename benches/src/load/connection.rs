//! A TLS connection that is looked at, never waited for.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::Outcome;

/// One read takes what many answers make.
const READ: usize = 256 * 1024;

pub(super) struct Connection {
    socket: TcpStream,
    tls: ClientConnection,
    read: Box<[u8]>,
}

impl Connection {
    pub(super) fn open(port: u16, name: &str, tls: Arc<ClientConfig>) -> Outcome<Self> {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_nodelay(true)?;
        let mut tls = ClientConnection::new(tls, ServerName::try_from(name.to_owned())?)?;
        tls.set_buffer_limit(None);
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        socket.set_nonblocking(true)?;
        Ok(Self { socket, tls, read: vec![0; READ].into() })
    }

    /// Hands over as much as the kernel takes now; the rest goes with the next call.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.tls.writer().write_all(bytes)?;
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.tls.wants_write()
    }

    /// Appends what has arrived.
    pub(super) fn receive(&mut self, into: &mut Vec<u8>) -> Outcome<()> {
        loop {
            let count = match self.socket.read(&mut self.read) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let mut encrypted = &self.read[..count];
            while !encrypted.is_empty() {
                self.tls.read_tls(&mut encrypted)?;
                let plain = self.tls.process_new_packets()?.plaintext_bytes_to_read();
                let before = into.len();
                into.resize(before + plain, 0);
                self.tls.reader().read_exact(&mut into[before..])?;
            }
            if count < self.read.len() {
                return Ok(());
            }
        }
    }
}
