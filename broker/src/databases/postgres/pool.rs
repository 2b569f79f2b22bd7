//! A few logins of the broker's own, kept and bounded.

use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, Config};

use super::tls::{self, Handshake};
use super::{Account, Login, Postgres};
use crate::error::Failure;
use crate::names::VersionId;

/// Beyond the server's own limit on a statement, for the answer to travel.
const TRAVEL: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_secs(1);

/// What a session of ours is known by, in SQL. A process id alone is soon another's.
pub(super) const SESSION: &str = "pid || ' ' || extract(epoch FROM backend_start)";

#[derive(Debug)]
pub(super) struct Pool {
    places: Semaphore,
    idle: Mutex<Vec<Connection>>,
    /// Sessions that were given up before their last statement ended well: the server may be at it still.
    lost: Mutex<Vec<String>>,
}

/// A login, and the task that moves its bytes.
#[derive(Debug)]
pub(super) struct Connection {
    client: Client,
    driver: JoinHandle<()>,
    /// What no other session of the server ever is.
    session: String,
}

/// A connection in use. Given back only when its last statement ended well; dropped, it is closed.
pub(super) struct Lent<'a> {
    connection: Option<Connection>,
    pool: &'a Pool,
    _place: SemaphorePermit<'a>,
}

impl Pool {
    pub(super) fn new(places: usize) -> Self {
        Self { places: Semaphore::new(places), idle: Mutex::default(), lost: Mutex::default() }
    }

    pub(super) fn lost(&self) -> Vec<String> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// These have ended.
    pub(super) fn forget(&self, ended: &[String]) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).retain(|session| !ended.contains(session));
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|connection| !connection.client.is_closed())
    }
}

impl Lent<'_> {
    pub(super) fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.lost.lock().unwrap_or_else(PoisonError::into_inner).push(connection.session.clone());
        }
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Postgres {
    /// Runs statements on a connection of the pool, and keeps account of how that went.
    pub(super) async fn with_connection<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let outcome = self.lend(work).await;
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        match &outcome {
            Ok(_) => *account = Account { success: Some(self.clock.now()), failure: None },
            Err(failure) => account.failure = Some(failure.clone()),
        }
        outcome
    }

    async fn lend<T>(&self, work: impl AsyncFnOnce(&Client) -> Result<T, Failure>) -> Result<T, Failure> {
        let place = timeout(self.settings.timeout, self.pool.places.acquire()).await;
        let Ok(Ok(place)) = place else { return Err(self.all_in_use()) };
        let connection = match self.pool.take_idle() {
            Some(connection) => connection,
            None => self.log_in(&self.settings.database).await?,
        };
        let lent = Lent { connection: Some(connection), pool: &self.pool, _place: place };
        let Some(connection) = &lent.connection else { return Err(self.all_in_use()) };
        let outcome = timeout(self.settings.timeout + TRAVEL, work(connection)).await;
        let answer = outcome.map_err(|_| self.too_slow())??;
        lent.give_back();
        Ok(answer)
    }

    /// A new login to any database of the server.
    pub(super) async fn log_in(&self, database: &str) -> Result<Connection, Failure> {
        let attempt = timeout(self.settings.timeout, self.try_log_in(database)).await;
        attempt.unwrap_or_else(|_| Err(self.too_slow()))
    }

    async fn try_log_in(&self, database: &str) -> Result<Connection, Failure> {
        let mut config = Config::new();
        config.user(&self.settings.user).dbname(database);
        let identity = match &self.login {
            Login::Certificate { certificate, key } => Some((certificate.as_path(), key.as_path())),
            Login::Password { store, secret } => {
                config.password(store.fetch(secret, &VersionId::Latest).await?.payload.expose());
                None
            }
        };
        self.connect(config, identity).await
    }

    /// As the user that the configuration names, over TLS.
    pub(super) async fn connect(
        &self,
        mut config: Config,
        identity: Option<(&Path, &Path)>,
    ) -> Result<Connection, Failure> {
        let settings = &self.settings;
        let name = ServerName::try_from(settings.host.clone()).map_err(|error| self.tls_failed(error))?;
        config.application_name("keyferry").ssl_mode(tokio_postgres::config::SslMode::Require);
        // Nothing on anybody's search path can stand in for what the statements name.
        let limit = settings.timeout.as_millis();
        config.options(format!("-c search_path=pg_catalog -c statement_timeout={limit} -c lock_timeout={limit}"));
        let connector = tls::connector(self.ca.as_bytes(), identity, Arc::clone(&self.clock)).await;
        let connector = connector.map_err(|error| self.tls_failed(error))?;
        let stream = TcpStream::connect((settings.host.as_str(), settings.port)).await;
        let stream = stream.map_err(|error| self.unreachable(error))?;
        stream.set_nodelay(true).map_err(|error| self.unreachable(error))?;
        let done = Arc::new(AtomicBool::new(false));
        let handshake = Handshake { connector, name, done: Arc::clone(&done) };
        let (client, connection) = config.connect_raw(stream, handshake).await.map_err(|error| {
            if done.load(Ordering::Relaxed) { self.login_failure(error) } else { self.handshake_failure(error) }
        })?;
        let driver = tokio::spawn(async move {
            // Its statements have heard of the error.
            let _ = connection.await;
        });
        let mut connection = Connection { client, driver, session: String::new() };
        connection.session = self.session_of(&connection).await?;
        Ok(connection)
    }

    async fn session_of(&self, client: &Client) -> Result<String, Failure> {
        // The server looks for itself whether we are still there, so that a broker's death ends what it had begun. Not
        // every system lets it, and then it finds out when it answers.
        let _ = client.batch_execute(&format!("SET client_connection_check_interval = {}", LOOK.as_millis())).await;
        let query = format!("SELECT {SESSION} FROM pg_stat_activity WHERE pid = pg_backend_pid()");
        let row = client.query_typed(&query, &[]).await.map_err(|error| self.statement_failure(error))?;
        Ok(row.first().map(|row| row.get(0)).unwrap_or_default())
    }
}
