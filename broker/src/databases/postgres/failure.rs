//! Which link to the database broke, and what cures it. The database's own words go to the log only.

use tokio_postgres::error::SqlState;

use super::Postgres;
use crate::error::{Failure, Reason};

type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Postgres {
    pub(super) fn unreachable(&self, cause: impl Into<Cause>) -> Failure {
        let message = format!(
            "{} does not answer at {}:{}; check that it runs and that the broker can reach it",
            self.name, self.settings.host, self.settings.port
        );
        Failure::new(Reason::DatabaseUnavailable, message).caused_by(cause)
    }

    pub(super) fn too_slow(&self) -> Failure {
        let message = format!(
            "{} did not answer within {:?}; see what keeps it busy, or raise timeout under [databases.{}]",
            self.name,
            self.settings.timeout,
            self.name.id()
        );
        Failure::new(Reason::DatabaseUnavailable, message)
    }

    pub(super) fn tls_failed(&self, cause: impl Into<Cause>) -> Failure {
        let message = format!(
            "TLS to {} fails; its certificate must carry {} and chain to ca under [databases.{}], and ours be accepted \
             by it: the broker's log has the cause",
            self.name,
            self.settings.host,
            self.name.id()
        );
        Failure::new(Reason::DatabaseTls, message).caused_by(cause)
    }

    pub(super) fn refused(&self, cause: impl Into<Cause>) -> Failure {
        let message = format!(
            "{} refuses the broker's own login {:?}; check its password or certificate, pg_hba.conf, and that it may \
             connect to {:?}",
            self.name, self.settings.user, self.settings.database
        );
        Failure::new(Reason::DatabaseLoginRefused, message).caused_by(cause)
    }

    /// The server's limit.
    pub(super) fn exhausted(&self, cause: impl Into<Cause>) -> Failure {
        let message = format!(
            "{} has no connection left for the broker; raise max_connections there, or reserve some for {:?}",
            self.name, self.settings.user
        );
        Failure::new(Reason::DatabaseExhausted, message).caused_by(cause)
    }

    /// Our own limit.
    pub(super) fn all_in_use(&self) -> Failure {
        let message = format!(
            "the broker's {} connections to {} are all in use; retry, or raise connections under [databases.{}]",
            self.settings.connections,
            self.name,
            self.name.id()
        );
        Failure::new(Reason::DatabaseExhausted, message)
    }

    fn not_allowed(&self, cause: impl Into<Cause>) -> Failure {
        let message = format!(
            "{} does not let {:?} make or remove users; grant what docs/postgres.md lists, and check that the role's \
             groups exist",
            self.name, self.settings.user
        );
        Failure::new(Reason::DatabaseLoginRefused, message).caused_by(cause)
    }

    /// Of a login before its TLS stood.
    pub(super) fn handshake_failure(&self, error: tokio_postgres::Error) -> Failure {
        let is_cut = source_of::<std::io::Error>(&error).is_some() && !tls_alert(&error);
        if is_cut { self.unreachable(error) } else { self.tls_failed(error) }
    }

    /// Of a login whose TLS stood.
    pub(super) fn login_failure(&self, error: tokio_postgres::Error) -> Failure {
        if tls_alert(&error) {
            return self.tls_failed(error);
        }
        match error.code() {
            Some(code) if is_exhaustion(code) => self.exhausted(error),
            Some(code) if is_absence(code) => self.unreachable(error),
            // Wrong credentials, no such database, no right to connect to it.
            Some(_) => self.refused(error),
            None if is_io(&error) => self.unreachable(error),
            // The server asks for a proof that we were not given.
            None => self.refused(error),
        }
    }

    pub(super) fn statement_failure(&self, error: tokio_postgres::Error) -> Failure {
        match error.code() {
            Some(code) if is_exhaustion(code) => self.exhausted(error),
            Some(&SqlState::QUERY_CANCELED | &SqlState::LOCK_NOT_AVAILABLE) => self.too_slow().caused_by(error),
            Some(&SqlState::INSUFFICIENT_PRIVILEGE | &SqlState::UNDEFINED_OBJECT) => self.not_allowed(error),
            Some(_) | None => self.unreachable(error),
        }
    }
}

fn is_exhaustion(code: &SqlState) -> bool {
    code.code().starts_with("53")
}

/// Shutting down, starting up, or crashed.
fn is_absence(code: &SqlState) -> bool {
    code.code().starts_with("57P") || code.code().starts_with("08")
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    error.is_closed() || source_of::<std::io::Error>(error).is_some()
}

/// With TLS 1.3 the server judges our certificate after we think that the handshake is over.
fn tls_alert(error: &tokio_postgres::Error) -> bool {
    let io = source_of::<std::io::Error>(error).and_then(std::io::Error::get_ref);
    io.is_some_and(|inner| inner.downcast_ref::<rustls::Error>().is_some())
}

fn source_of<E: std::error::Error + 'static>(error: &tokio_postgres::Error) -> Option<&E> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref())
}
