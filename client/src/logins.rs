use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keyferry_proto::v1::mint_database_token_response::Credential;
use keyferry_proto::v1::revoke_lease_request::Target;
use keyferry_proto::v1::{
    AccessTokenUsage, DatabaseConnection, MintDatabaseTokenRequest, MintDatabaseTokenResponse, RevokeLeaseRequest,
};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use zeroize::Zeroizing;

use crate::{Client, Error, RoleName, chance, clock};

/// A login to a database that is always a good one: a task mints the next before the one in use ends.
#[derive(Clone)]
pub struct Logins(Arc<Kept>);

struct Kept {
    current: watch::Receiver<Arc<Login>>,
    task: AbortHandle,
}

/// One user with its password. When the last clone is dropped before its end, its lease is revoked, if there is one.
pub struct Login {
    pub user: String,
    pub password: Zeroizing<String>,
    pub connection: DatabaseConnection,
    pub expire_time: SystemTime,
    lease: Option<String>,
    client: Client,
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// However soon a login ends, no sooner is the next one asked for.
const SHORTEST: Duration = Duration::from_millis(200);

impl Logins {
    /// Mints the first, which must succeed.
    pub(crate) async fn start(client: Client, role: RoleName, ttl: Option<Duration>) -> Result<Self, Error> {
        let request = MintDatabaseTokenRequest {
            name: role.to_string(),
            ttl: ttl.and_then(|ttl| ttl.try_into().ok()),
            ..MintDatabaseTokenRequest::default()
        };
        let first = mint(&client, &request).await?;
        let (sender, current) = watch::channel(Arc::new(first));
        let task = tokio::spawn(keep(client, request, sender)).abort_handle();
        Ok(Self(Arc::new(Kept { current, task })))
    }

    /// The one to log in with now. While no other can be minted, this is the last, up to its end and past it.
    pub fn current(&self) -> Arc<Login> {
        Arc::clone(&self.0.current.borrow())
    }

    /// Tells of each login from the current one on.
    #[cfg(feature = "sqlx")]
    pub(crate) fn follow(&self) -> watch::Receiver<Arc<Login>> {
        self.0.current.clone()
    }
}

async fn keep(client: Client, request: MintDatabaseTokenRequest, sender: watch::Sender<Arc<Login>>) {
    let mut ended = Duration::ZERO;
    loop {
        let life = clock::until(sender.borrow().expire_time);
        // Between 50 and 70 per cent of it, so that what runs on it has the rest to finish. By a clock that is ahead of the
        // broker's it may have ended already, however often another is asked for.
        ended = if life.is_zero() { (ended * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE) } else { Duration::ZERO };
        sleep(ended.max(SHORTEST).max(life.mul_f64(0.3) + chance::around(life.mul_f64(0.4)))).await;
        let mut pause = FIRST_PAUSE;
        let next = loop {
            match mint(&client, &request).await {
                Ok(login) => break login,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "no new database login; the last one stays"
                    );
                    sleep(chance::around(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        };
        sender.send_replace(Arc::new(next));
    }
}

async fn mint(client: &Client, request: &MintDatabaseTokenRequest) -> Result<Login, Error> {
    let MintDatabaseTokenResponse { user, credential, connection, expire_time, lease } =
        client.call(request.clone()).await?;
    let password = match credential {
        Some(Credential::Password(credential)) => credential.password,
        Some(Credential::AccessToken(token)) if token.usage() == AccessTokenUsage::Password => token.access_token,
        _ => return Err(Error::NoPassword(request.name.clone())),
    };
    let (Some(connection), Some(end)) = (connection, expire_time) else {
        return Err(Error::Unexpected("a database login without its place or end"));
    };
    Ok(Login {
        user,
        password: Zeroizing::new(password),
        connection,
        expire_time: SystemTime::try_from(end).map_err(|_| Error::Unexpected("a database login's end"))?,
        lease: lease.map(|lease| lease.name),
        client: client.clone(),
    })
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        // Whatever the clock here says of its end.
        if let Some(name) = self.lease.take()
            && let Ok(runtime) = Handle::try_current()
        {
            let client = self.client.clone();
            let request = RevokeLeaseRequest { target: Some(Target::Name(name)), ..RevokeLeaseRequest::default() };
            // Where it cannot be, the lease ends by itself.
            runtime.spawn(async move { client.call(request).await });
        }
    }
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Logins").field(&self.current()).finish()
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, expire_time, lease, .. } = self;
        f.debug_struct("Login")
            .field("user", user)
            .field("expire_time", expire_time)
            .field("lease", lease)
            .finish_non_exhaustive()
    }
}
