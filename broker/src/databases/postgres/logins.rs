//! Users that somebody else made, and whose passwords are rotated.

use futures_util::future::BoxFuture;
use postgres_protocol::password::scram_sha_256;
use tokio::time::timeout;
use tokio_postgres::Config;
use tokio_postgres::error::SqlState;

use super::Postgres;
use super::sql::{identifier, literal};
use crate::error::{Failure, Reason};
use crate::rotation::strategies::postgres::Logins;
use crate::secrets::SecretBytes;

impl Logins for Postgres {
    fn admit<'a>(&'a self, user: &'a str, password: &'a SecretBytes) -> BoxFuture<'a, Result<(), Failure>> {
        let (name, verifier) = (identifier(user), literal(&scram_sha_256(password.expose())));
        let statement = format!("ALTER ROLE {name} LOGIN PASSWORD {verifier} VALID UNTIL 'infinity'");
        Box::pin(self.with_connection(async move |client| {
            client.batch_execute(&statement).await.map_err(|error| match error.code() {
                Some(&SqlState::UNDEFINED_OBJECT) => self.no_such_user(user).caused_by(error),
                Some(_) | None => self.statement_failure(error),
            })
        }))
    }

    fn prove<'a>(&'a self, user: &'a str, password: &'a SecretBytes) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let mut config = Config::new();
            config.user(user).password(password.expose()).dbname(&self.settings.database);
            let attempt = timeout(self.settings.timeout, self.connect(config, None)).await;
            let session = attempt.unwrap_or_else(|_| Err(self.too_slow())).map_err(|failure| {
                let is_refused = failure.reason() == Reason::DatabaseLoginRefused;
                if is_refused { self.not_let_in(user).caused_by(failure) } else { failure }
            })?;
            session.batch_execute("").await.map_err(|error| self.statement_failure(error))
        })
    }

    fn expel<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.with_connection(async move |client| {
            let Some(id) = self.id_of(client, user).await? else { return Ok(()) };
            // Not by password, and not otherwise either.
            self.run(client, &format!("ALTER ROLE {} NOLOGIN PASSWORD NULL", identifier(user))).await?;
            self.end_sessions(client, id).await?;
            // A login that was under way when NOLOGIN came has shown its session by now.
            self.end_sessions(client, id).await
        }))
    }
}

impl Postgres {
    fn no_such_user(&self, user: &str) -> Failure {
        let message =
            format!("{} has no user {user:?}; create both users of the rotation, as docs/rotation.md shows", self.name);
        Failure::new(Reason::DatabaseLoginRefused, message)
    }

    fn not_let_in(&self, user: &str) -> Failure {
        let message = format!(
            "{} does not let {user:?} log in with its new password; see that pg_hba.conf admits it by scram-sha-256 over \
             TLS, and that it may connect",
            self.name
        );
        Failure::new(Reason::DatabaseLoginRefused, message)
    }
}
