//! For `deadpool`, with the clients of `deadpool-postgres`.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

use super::tls::{Handshake, HandshakeError};
use crate::{Login, Logins};

/// Logs each new connection in with the current login, and retires a connection when it is next asked for after its login
/// was replaced. `Pool::builder(Manager::new(logins))` makes a pool of it.
#[derive(Clone, Debug)]
pub struct Manager(Logins);

pub type Pool = managed::Pool<Manager>;

/// A connection, and what keeps its login from being revoked.
#[derive(Debug)]
pub struct Connection {
    client: ClientWrapper,
    login: Arc<Login>,
}

#[derive(Debug, Error)]
pub enum ConnectError {
    #[error("nothing answers at {0}; see that the database runs there, and that the way to it is open")]
    Tcp(String, #[source] io::Error),
    #[error(transparent)]
    Tls(#[from] HandshakeError),
    #[error("the database refuses the login or the query")]
    Postgres(#[from] tokio_postgres::Error),
}

impl Manager {
    pub fn new(logins: Logins) -> Self {
        Self(logins)
    }
}

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = ConnectError;

    async fn create(&self) -> Result<Connection, ConnectError> {
        let login = self.0.current();
        let handshake = Handshake::with(&login.connection)?;
        let place = (&*login.connection.host, u16::try_from(login.connection.port).unwrap_or_default());
        let tcp = TcpStream::connect(place).await;
        let tcp = tcp.map_err(|error| ConnectError::Tcp(format!("{}:{}", place.0, place.1), error))?;
        let (client, connection) = config(&login).connect_raw(tcp, handshake).await?;
        // Its errors are those of the queries that run into them.
        let task = tokio::spawn(async { drop(connection.await) });
        Ok(Connection { client: ClientWrapper::new(client, task), login })
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<ConnectError> {
        if connection.client.is_closed() {
            return Err(RecycleError::message("the connection is closed"));
        }
        if !Arc::ptr_eq(&connection.login, &self.0.current()) {
            return Err(RecycleError::message("the login was replaced"));
        }
        Ok(())
    }
}

fn config(login: &Login) -> Config {
    let mut config = Config::new();
    config.user(&login.user).password(login.password.as_bytes()).ssl_mode(SslMode::Require);
    if !login.connection.database.is_empty() {
        config.dbname(&login.connection.database);
    }
    if let Some(options) = login.connection.parameters.get("options") {
        config.options(options);
    }
    config
}

impl Deref for Connection {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        &mut self.client
    }
}
