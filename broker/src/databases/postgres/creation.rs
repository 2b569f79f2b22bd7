//! Makes users. Those who wait while others are being made share the next transaction, and so its wait for the disk.
//!
//! The server hashes each password as a login would, to see that it is not empty, which takes milliseconds of one of its
//! processors. So a few sessions make users at once, and the groups' locks, which all of them want, are taken last.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{Semaphore, oneshot};

use super::Postgres;
use super::sql::{identifier, identifiers, literal};
use super::verifier::verifier;
use crate::databases::users::NewUser;
use crate::error::Failure;

/// Users of one transaction at most.
const TOGETHER: usize = 64;
/// Transactions at once at most, and never more than half of the connections.
const AT_ONCE: usize = 4;

/// The users of one role that are to be made. Of one role only, so that whatever the server has against another one's
/// groups concerns nobody here.
#[derive(Debug)]
pub(super) struct Creations {
    waiting: Mutex<VecDeque<Waiting>>,
    turns: Semaphore,
}

#[derive(Debug)]
struct Waiting {
    statements: Statements,
    made: oneshot::Sender<Result<(), Failure>>,
}

#[derive(Debug)]
struct Statements {
    creation: String,
    /// What waits for others who make users of the same groups.
    membership: String,
}

enum Refusal {
    /// For what the statements say: one user's must not be another's.
    Content(Failure),
    Other(Failure),
}

impl Creations {
    pub(super) fn new(connections: usize) -> Self {
        Self { waiting: Mutex::default(), turns: Semaphore::new((connections / 2).clamp(1, AT_ONCE)) }
    }

    fn wait(&self, statements: Statements) -> oneshot::Receiver<Result<(), Failure>> {
        let (made, outcome) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(Waiting { statements, made });
        outcome
    }

    fn take(&self, most: usize) -> VecDeque<Waiting> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.len().min(most);
        waiting.drain(..count).collect()
    }
}

impl Postgres {
    pub(super) async fn create_user(&self, user: &NewUser) -> Result<(), Failure> {
        let statements = statements(user)?;
        let Some(creations) = self.creations.get(&user.tag.role) else {
            return self.execute(&transaction([&statements])).await;
        };
        let (mut outcome, mut in_hand) = (creations.wait(statements), false);
        loop {
            tokio::select! {
                biased;
                // Whoever had it in hand was cut off.
                outcome = &mut outcome => return outcome.unwrap_or_else(|_| Err(self.too_slow())),
                // Where nobody waits any more, somebody has it in hand, and to ask for turns would be to spin.
                _turn = creations.turns.acquire(), if !in_hand => in_hand = !self.create_waiting(creations).await,
            }
        }
    }

    /// Whether anybody waited.
    async fn create_waiting(&self, creations: &Creations) -> bool {
        let mut together = creations.take(TOGETHER);
        if together.is_empty() {
            return false;
        }
        let mut outcome = self.create_all(together.iter().map(|waiting| &waiting.statements)).await;
        if together.len() > 1 && matches!(outcome, Err(Refusal::Content(_))) {
            outcome = self.create_each(&mut together).await;
        }
        let outcome = match outcome {
            Ok(()) => Ok(()),
            Err(Refusal::Content(failure)) => Err(failure),
            Err(Refusal::Other(failure)) => {
                // Nobody shall wait for the same to happen to them.
                together.extend(creations.take(usize::MAX));
                Err(failure)
            }
        };
        for waiting in together {
            // Nobody waits any more where the process ends.
            let _ = waiting.made.send(outcome.clone());
        }
        true
    }

    /// Each by itself, until one is refused for what is not its own fault: it and those after it are left.
    async fn create_each(&self, together: &mut VecDeque<Waiting>) -> Result<(), Refusal> {
        while let Some(next) = together.front() {
            let outcome = match self.create_all([&next.statements]).await {
                Ok(()) => Ok(()),
                Err(Refusal::Content(failure)) => Err(failure),
                Err(other @ Refusal::Other(_)) => return Err(other),
            };
            if let Some(next) = together.pop_front() {
                let _ = next.made.send(outcome);
            }
        }
        Ok(())
    }

    async fn create_all(&self, users: impl IntoIterator<Item = &Statements>) -> Result<(), Refusal> {
        let statements = transaction(users);
        let mut for_content = false;
        let done = self.with_connection(async |client| {
            client.batch_execute(&statements).await.map_err(|error| {
                // Data exceptions, and what is wrong with names and rights.
                for_content = error.code().is_some_and(|code| matches!(code.code().get(..2), Some("22" | "42")));
                self.statement_failure(error)
            })
        });
        let done = done.await;
        done.map_err(|failure| if for_content { Refusal::Content(failure) } else { Refusal::Other(failure) })
    }
}

/// Statements sent together are one transaction.
fn transaction<'a>(users: impl IntoIterator<Item = &'a Statements>) -> String {
    let (mut creations, mut memberships) = (String::new(), String::new());
    for user in users {
        creations.push_str(&user.creation);
        memberships.push_str(&user.membership);
    }
    creations + &memberships
}

/// The password goes as its verifier: neither the server's log nor its catalogs ever see it.
fn statements(user: &NewUser) -> Result<Statements, Failure> {
    let name = identifier(user.name.as_str());
    let mut creation = format!(
        "CREATE ROLE {name} LOGIN CONNECTION LIMIT {limit} PASSWORD {verifier} VALID UNTIL {until};\
         COMMENT ON ROLE {name} IS {comment};",
        limit = user.connection_limit,
        verifier = literal(&verifier(user.password.expose())?),
        until = literal(&user.until.to_string()),
        comment = literal(&user.tag.to_string()),
    );
    if !user.search_path.is_empty() {
        creation.push_str(&format!("ALTER ROLE {name} SET search_path TO {};", identifiers(&user.search_path)));
    }
    let membership = format!("GRANT {} TO {name};", identifiers(&user.groups));
    Ok(Statements { creation, membership })
}
