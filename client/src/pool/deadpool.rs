//! For `deadpool`, with the clients of `deadpool-postgres`.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

use super::tls::{Handshake, HandshakeError, Stream};
use crate::{Login, Logins};

/// Logs each new connection in with the current login, and retires a connection when it is next asked for after its login
/// was replaced. `Pool::builder(Manager::new(logins))` makes a pool of it.
#[derive(Clone, Debug)]
pub struct Manager {
    logins: Logins,
    patience: Duration,
}

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
    #[error("no connection with {0} within {1:?}; see that the database answers, or allow for more time")]
    Late(String, Duration),
    #[error(transparent)]
    Tls(#[from] HandshakeError),
    #[error("the database refuses the login or the query")]
    Postgres(#[from] tokio_postgres::Error),
}

/// For one connection with its login.
const PATIENCE: Duration = Duration::from_secs(10);

impl Manager {
    pub fn new(logins: Logins) -> Self {
        Self { logins, patience: PATIENCE }
    }

    /// How long a connection may take until it is logged in; 10 seconds where nothing is said.
    #[must_use]
    pub fn connect_timeout(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }
}

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = ConnectError;

    async fn create(&self) -> Result<Connection, ConnectError> {
        let login = self.logins.current();
        let late = || ConnectError::Late(place(&login), self.patience);
        let (client, connection) = timeout(self.patience, connect(&login)).await.map_err(|_| late())??;
        // Its errors are those of the queries that run into them.
        let task = tokio::spawn(async { drop(connection.await) });
        Ok(Connection { client: ClientWrapper::new(client, task), login })
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<ConnectError> {
        if connection.client.is_closed() {
            return Err(RecycleError::message("the connection is closed"));
        }
        if !Arc::ptr_eq(&connection.login, &self.logins.current()) {
            return Err(RecycleError::message("the login was replaced"));
        }
        Ok(())
    }
}

type Connecting = (tokio_postgres::Client, tokio_postgres::Connection<TcpStream, Stream>);

async fn connect(login: &Login) -> Result<Connecting, ConnectError> {
    let handshake = Handshake::with(&login.connection)?;
    let port = u16::try_from(login.connection.port).unwrap_or_default();
    let tcp = TcpStream::connect((&*login.connection.host, port)).await;
    let tcp = tcp.map_err(|error| ConnectError::Tcp(place(login), error))?;
    Ok(config(login).connect_raw(tcp, handshake).await?)
}

fn place(login: &Login) -> String {
    format!("{}:{}", login.connection.host, login.connection.port)
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
