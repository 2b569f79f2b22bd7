//! How the verbs that ask a broker reach it.

use std::path::{Path, PathBuf};

use keyferry_client::{Call, Client, Options, TokenSource};
use serde_json::Value;

use super::failure::Failure;
use super::profile::Profile;
use super::text::table;
use super::{Complaint, printable, say};
use crate::hardening;

/// Which broker, as whom, and how the answer is told.
#[derive(Debug, clap::Args)]
pub(super) struct Asking {
    #[command(flatten)]
    server: Server,
    /// Print JSON: one object, or one a line
    #[arg(long)]
    pub(super) json: bool,
}

/// Each option has a variable, so that it need be said once only; a profile says all of them at once.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Server {
    /// The broker, https://HOST:PORT; $KEYFERRY_SERVER where it is left out
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// CAs (PEM) of the broker's certificate; $KEYFERRY_CA, or the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Your certificate (PEM); $KEYFERRY_CERT
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Your certificate's key (PEM); $KEYFERRY_KEY
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A file with your own token; $KEYFERRY_TOKEN_FILE
    #[arg(long, value_name = "FILE")]
    own_token_file: Option<PathBuf>,
    /// A file that says these five; $KEYFERRY_PROFILE, or what `keyferry dev` left in this directory
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
}

/// A connection with the credentials that go with each call.
pub(super) struct Connection(Client);

impl Asking {
    pub(super) async fn connect(&self) -> Result<Connection, Complaint> {
        Ok(Connection(self.server.connect().await?))
    }
}

impl Asking {
    /// For a program or for a person.
    pub(super) fn tell(&self, json: impl FnOnce() -> Value, text: impl FnOnce() -> String) -> Result<(), Complaint> {
        say(&if self.json { json().to_string() } else { printable(&text()) })
    }

    /// One object a line, or a table under its header.
    pub(super) fn tell_all<T, const N: usize>(
        &self,
        items: &[T],
        json: impl Fn(&T) -> Value,
        header: [&str; N],
        rows: impl Fn(&T) -> Vec<Vec<String>>,
    ) -> Result<(), Complaint> {
        if self.json {
            items.iter().try_for_each(|item| say(&json(item).to_string()))
        } else if items.is_empty() {
            say("none")
        } else {
            let header = std::iter::once(header.map(str::to_owned).to_vec());
            let rows: Vec<_> = header.chain(items.iter().flat_map(rows)).collect();
            say(&printable(&table(&rows).join("\n")))
        }
    }
}

impl Server {
    pub(super) async fn connect(&self) -> Result<Client, Complaint> {
        // From here on this process holds secrets, or is about to.
        hardening::conceal()?;
        Ok(Client::connect(self.options()?).await.map_err(Failure::from)?)
    }

    fn options(&self) -> Result<Options, Complaint> {
        let profile = self.profile()?;
        let server = profile.server.ok_or_else(|| {
            Failure::usage("no broker: give --server https://HOST:PORT or --profile FILE, or set KEYFERRY_SERVER")
        })?;
        let mut options = Options::to(server);
        options.ca = profile.ca;
        options.certificate = profile.cert;
        options.key = profile.key;
        options.token = profile.token_file.map(TokenSource::File);
        Ok(options)
    }

    /// The command line goes before the environment, and in each what is said goes before the profile that is named.
    fn profile(&self) -> Result<Profile, Complaint> {
        let said = Profile {
            server: self.server.clone(),
            ca: self.ca.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            token_file: self.own_token_file.clone(),
        };
        // The environment's credentials may be another broker's.
        if let Some(named) = &self.profile {
            return Ok(said.or(Profile::read(named)?));
        }
        let file = |name| variable(name).map(PathBuf::from);
        let said = said.or(Profile {
            server: variable("KEYFERRY_SERVER"),
            ca: file("KEYFERRY_CA"),
            cert: file("KEYFERRY_CERT"),
            key: file("KEYFERRY_KEY"),
            token_file: file("KEYFERRY_TOKEN_FILE"),
        });
        match file("KEYFERRY_PROFILE") {
            Some(named) => Ok(said.or(Profile::read(&named)?)),
            // Somebody else's directory must not decide where a credential of this environment is sent.
            None if said == Profile::default() => Ok(Profile::found(Path::new("."))?.unwrap_or_default()),
            None => Ok(said),
        }
    }
}

impl Connection {
    pub(super) fn client(&self) -> &Client {
        &self.0
    }

    /// One call's answer, or why there is none.
    pub(super) async fn ask<R: Call>(&self, request: R) -> Result<R::Answer, Complaint> {
        Ok(self.0.call(request).await.map_err(Failure::from)?)
    }
}

/// A token as it lies in a file, with or without a newline at its end.
pub(super) fn read_token(file: &Path) -> Result<String, Complaint> {
    let text = std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let text = String::from_utf8(text).map_err(|_| format!("{} holds no token", file.display()))?;
    Ok(text.trim().to_owned())
}

/// Runs what one verb asks.
pub(super) fn block_on<T>(ask: impl Future<Output = Result<T, Complaint>>) -> Result<T, Complaint> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(ask)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
