//! Takes a user away so that nothing of it is left. Every step may be repeated after any other failed.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::Postgres;
use super::pool::SESSION;
use super::sql::identifier;
use crate::databases::users::UserName;
use crate::error::{Failure, Reason};

/// How often sessions are looked at until they have ended.
const LOOKS: u32 = 50;
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

impl Postgres {
    pub(super) async fn remove_user(&self, user: &UserName, heir: &str) -> Result<(), Failure> {
        self.with_connection(async |client| {
            self.end_lost(client).await?;
            let Some(id) = self.id_of(client, user.as_str()).await? else { return Ok(()) };
            let name = identifier(user.as_str());
            // First of all: from here on nobody logs in anew.
            self.run(client, &format!("ALTER ROLE {name} NOLOGIN")).await?;
            self.end_sessions(client, id).await?;
            for database in self.holdings(client, id).await? {
                self.dispossess(&database, &name, heir).await?;
            }
            self.run(client, &format!("DROP ROLE IF EXISTS {name}")).await?;
            // A login that was under way when NOLOGIN came has shown its session by now.
            self.end_sessions(client, id).await?;
            match self.id_of(client, user.as_str()).await? {
                None => Ok(()),
                Some(_) => Err(self.unfinished("the user is still there after it was removed")),
            }
        })
        .await
    }

    pub(super) async fn id_of(&self, client: &Client, user: &str) -> Result<Option<u32>, Failure> {
        let query = "SELECT oid FROM pg_roles WHERE rolname = $1";
        let rows = client.query_typed(query, &[(&user, Type::TEXT)]).await;
        let rows = rows.map_err(|error| self.statement_failure(error))?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    /// What was sent there may be under way still, and would make a user after it was seen to be absent.
    async fn end_lost(&self, client: &Client) -> Result<(), Failure> {
        let lost = self.pool.lost();
        if !lost.is_empty() {
            self.end_all(client, &format!("{SESSION} = ANY($1)"), (&lost, Type::TEXT_ARRAY)).await?;
            self.pool.forget(&lost);
        }
        Ok(())
    }

    /// By the user's id, which its sessions keep when the user is gone.
    pub(super) async fn end_sessions(&self, client: &Client, id: u32) -> Result<(), Failure> {
        self.end_all(client, "usesysid = $1", (&id, Type::OID)).await
    }

    async fn end_all(&self, client: &Client, which: &str, of: (&(dyn ToSql + Sync), Type)) -> Result<(), Failure> {
        let query = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {which}");
        for look in 0..LOOKS {
            let sessions = client.query_typed(&query, std::slice::from_ref(&of)).await;
            if sessions.map_err(|error| self.statement_failure(error))?.is_empty() {
                return Ok(());
            }
            if look > 0 {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        }
        Err(self.unfinished("sessions do not end"))
    }

    /// The databases in which the user owns something or was granted something.
    async fn holdings(&self, client: &Client, id: u32) -> Result<Vec<String>, Failure> {
        let query = "SELECT DISTINCT coalesce(d.datname, current_database())::text FROM pg_shdepend s \
                     LEFT JOIN pg_database d ON d.oid = s.dbid \
                     WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1";
        let rows = client.query_typed(query, &[(&id, Type::OID)]).await;
        let rows = rows.map_err(|error| self.statement_failure(error))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// What the user owns goes to the heir, what it was granted goes back.
    async fn dispossess(&self, database: &str, name: &str, heir: &str) -> Result<(), Failure> {
        let heir = identifier(heir);
        let connection = self.log_in(database).await?;
        let statements =
            format!("GRANT {name} TO CURRENT_USER; REASSIGN OWNED BY {name} TO {heir}; DROP OWNED BY {name}");
        self.run(&connection, &statements).await
    }

    pub(super) async fn run(&self, client: &Client, statements: &str) -> Result<(), Failure> {
        client.batch_execute(statements).await.map_err(|error| self.statement_failure(error))
    }

    fn unfinished(&self, what: &str) -> Failure {
        let message = format!("a user of {} cannot be removed yet: {what}; it is tried again", self.name);
        Failure::new(Reason::DatabaseUnavailable, message)
    }
}
