//! For `sqlx`. Where the broker names no CAs for the database, sqlx's own list of public ones is trusted.

use std::ops::Deref;
use std::sync::Arc;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use tokio::task::AbortHandle;

use crate::{Login, Logins};

/// A pool that logs each new connection in with the current login, and closes a connection when it is next asked for after
/// its login was replaced. Logins are renewed for as long as a clone of this is there.
#[derive(Clone, Debug)]
pub struct Pool {
    pool: PgPool,
    _renewal: Arc<Renewal>,
}

#[derive(Debug)]
struct Renewal(AbortHandle);

impl Pool {
    /// Connects when first used. `options` must leave `before_acquire` to this.
    pub fn new(logins: Logins, options: PgPoolOptions) -> Self {
        let current = logins.clone();
        // Asking whose connection it is also shows that it is alive, which sqlx would otherwise ask first.
        let options = options.test_before_acquire(false).before_acquire(move |connection, _| {
            let user = current.current().user.clone();
            Box::pin(async move {
                let whose: String = sqlx::query_scalar("SELECT session_user::text").fetch_one(connection).await?;
                Ok(whose == user)
            })
        });
        let mut renewed = logins.follow();
        let mut in_use = renewed.borrow_and_update().clone();
        let pool = options.connect_lazy_with(connect_options(&in_use));
        let renewing = pool.clone();
        let task = tokio::spawn(async move {
            // Connections may still run on the login before; it has ended by the time of the next.
            let mut _before = None;
            while renewed.changed().await.is_ok() {
                let next = renewed.borrow_and_update().clone();
                renewing.set_connect_options(connect_options(&next));
                _before = Some(std::mem::replace(&mut in_use, next));
            }
        });
        Self { pool, _renewal: Arc::new(Renewal(task.abort_handle())) }
    }
}

fn connect_options(login: &Login) -> PgConnectOptions {
    let connection = &login.connection;
    let mut options = PgConnectOptions::new_without_pgpass()
        .host(&connection.host)
        .port(u16::try_from(connection.port).unwrap_or_default())
        .username(&login.user)
        .password(&login.password)
        .ssl_mode(PgSslMode::VerifyFull);
    if !connection.ca_pem.is_empty() {
        options = options.ssl_root_cert_from_pem(connection.ca_pem.clone().into_bytes());
    }
    if !connection.database.is_empty() {
        options = options.database(&connection.database);
    }
    options
}

impl Deref for Pool {
    type Target = PgPool;

    fn deref(&self) -> &PgPool {
        &self.pool
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}
