//! When an open stream must end: at a drain, and with the credentials that opened it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tonic::Status;

use super::{Connection, Drain};
use crate::error::{Failure, Reason};
use crate::identity::{Authenticator, Caller};

/// How soon a stream notices that a CA, a certificate, a key or a token is out of force.
const RECHECK: Duration = Duration::from_secs(5);

/// Who opened a stream, on which connection; left in the response for whoever sends it.
#[derive(Clone, Debug)]
pub(super) struct Opener {
    pub(super) connection: Arc<Connection>,
    pub(super) caller: Caller,
}

/// Resolves with the status that the stream is to end with. Health checks have no opener.
pub(super) async fn stream_end(drain: Drain, authenticator: Arc<Authenticator>, opener: Option<Opener>) -> Status {
    tokio::select! {
        () = drain.started() => {
            let message = "this replica is shutting down; open the stream again, at another replica";
            Failure::new(Reason::Draining, message).into()
        }
        failure = out_of_force(&authenticator, opener) => failure.into(),
    }
}

async fn out_of_force(authenticator: &Authenticator, opener: Option<Opener>) -> Failure {
    let Some(Opener { connection, caller }) = opener else { return std::future::pending().await };
    loop {
        sleep(RECHECK).await;
        if let Err(failure) = authenticator.recheck(&connection, &caller) {
            return failure;
        }
    }
}
