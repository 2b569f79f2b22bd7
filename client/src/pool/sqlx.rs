//! For `sqlx`. Where the broker names no CAs for the database, sqlx's own list of public ones is trusted.

use std::ops::Deref;
use std::sync::Arc;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

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

/// Whose new connections are, and from when on.
#[derive(Clone)]
struct InUse {
    user: String,
    since: Instant,
}

impl Pool {
    /// Connects when first used. `options` must leave `before_acquire` to this.
    pub fn new(logins: Logins, options: PgPoolOptions) -> Self {
        let mut renewed = logins.follow();
        let mut login = renewed.borrow_and_update().clone();
        let (in_use, current) = watch::channel(InUse::now(&login));
        // Asking whose connection it is also shows that it is alive, which sqlx would otherwise ask first.
        let options = options.test_before_acquire(false).before_acquire(move |connection, about| {
            let InUse { user, since } = current.borrow().clone();
            Box::pin(async move {
                // Logins of a role may all be the same user, with one token after another.
                if about.age > since.elapsed() {
                    return Ok(false);
                }
                let whose: String = sqlx::query_scalar("SELECT session_user::text").fetch_one(connection).await?;
                Ok(whose == user)
            })
        });
        let pool = options.connect_lazy_with(connect_options(&login));
        let renewing = pool.clone();
        let task = tokio::spawn(async move {
            // Keeps the logins renewed.
            let _logins = logins;
            // Connections may still run on the login before; it has ended by the time of the next.
            let mut _before = None;
            while renewed.changed().await.is_ok() {
                let next = renewed.borrow_and_update().clone();
                renewing.set_connect_options(connect_options(&next));
                in_use.send_replace(InUse::now(&next));
                _before = Some(std::mem::replace(&mut login, next));
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
    match connection.parameters.get("options") {
        Some(told) => options.options(settings(told)),
        None => options,
    }
}

/// Of `-c name=value` and `--name=value`, which mean the same.
fn settings(options: &str) -> impl Iterator<Item = (&str, &str)> {
    let words = options.split_whitespace();
    words.filter_map(|word| word.trim_start_matches("-c").trim_start_matches("--").split_once('='))
}

impl InUse {
    fn now(login: &Login) -> Self {
        Self { user: login.user.clone(), since: Instant::now() }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_in_every_way_of_writing_them() {
        let found: Vec<_> = settings("--crdb:jwt_auth_enabled=true -c a=b=c -cd=e -x").collect();
        assert_eq!(found, [("crdb:jwt_auth_enabled", "true"), ("a", "b=c"), ("d", "e")]);
    }
}
