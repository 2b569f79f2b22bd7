//! psql with a minted credential, which is over when psql is.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use keyferry_proto::v1::mint_database_token_response::Credential;
use keyferry_proto::v1::{AccessTokenUsage, DatabaseConnection, DatabaseEngine, MintDatabaseTokenResponse};
use tempfile::TempDir;
use tokio::process::Command;

use super::child::{Child, Forwarded, exit_code};
use super::connection::Connection;
use super::mint::give_back;
use super::{Complaint, say_error};

/// The credential is in files of this user's own, never in arguments, and revoked however psql ends.
pub(super) async fn run(
    broker: &Connection,
    minted: &MintDatabaseTokenResponse,
    arguments: &[String],
) -> Result<ExitCode, Complaint> {
    let outcome = session(minted, arguments).await;
    give_back(broker, minted, "psql has ended").await;
    outcome
}

async fn session(minted: &MintDatabaseTokenResponse, arguments: &[String]) -> Result<ExitCode, Complaint> {
    let mut signals = Forwarded::listen()?;
    let files = TempDir::with_prefix("keyferry-psql-")?;
    let connection = minted.connection.clone().unwrap_or_default();
    let variables = variables(minted, &connection, files.path())?;
    let mut command = Command::new("psql");
    for (name, _) in std::env::vars_os().filter(|(name, _)| leads_elsewhere(name)) {
        command.env_remove(name);
    }
    command.args(arguments).envs(variables);
    let mut psql = match Child::start(&mut command) {
        Ok(psql) => psql,
        Err((code, why)) => {
            say_error(&format!("{why}; install PostgreSQL's client"));
            return Ok(code);
        }
    };
    loop {
        tokio::select! {
            ended = psql.ended() => return Ok(exit_code(ended?)),
            signal = signals.next() => psql.send(signal),
        }
    }
}

/// What would change where the credential goes, or how it is protected on the way: all of libpq's but how things are shown.
fn leads_elsewhere(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("PG") && !["PGAPPNAME", "PGCLIENTENCODING", "PGDATESTYLE", "PGTZ", "PGGEQO"].contains(&&*name)
}

/// What libpq takes from its environment.
fn variables(
    minted: &MintDatabaseTokenResponse,
    connection: &DatabaseConnection,
    files: &Path,
) -> Result<Vec<(&'static str, OsString)>, Complaint> {
    if connection.engine() != DatabaseEngine::Postgresql {
        return Err("psql cannot talk to this kind of database; mint without --psql".into());
    }
    let mut variables: Vec<(&'static str, OsString)> = Vec::new();
    // libpq verifies the name that it was told to connect to.
    let host = if connection.tls_server_name.is_empty() {
        &connection.host
    } else {
        variables.push(("PGHOSTADDR", connection.host.clone().into()));
        &connection.tls_server_name
    };
    variables.push(("PGHOST", host.into()));
    let here = [host.as_str(), &connection.port.to_string(), "*", &minted.user].map(escaped);
    variables.push(("PGPORT", connection.port.to_string().into()));
    variables.push(("PGUSER", minted.user.clone().into()));
    if !connection.database.is_empty() {
        variables.push(("PGDATABASE", connection.database.clone().into()));
    }
    let roots = if connection.ca_pem.is_empty() {
        "system".into()
    } else {
        private(files, "ca.pem", &connection.ca_pem)?.into_os_string()
    };
    variables.push(("PGSSLROOTCERT", roots));
    let mode = connection.parameters.get("sslmode").map_or("verify-full", String::as_str);
    variables.push(("PGSSLMODE", mode.into()));
    if let Some(options) = connection.parameters.get("options") {
        variables.push(("PGOPTIONS", options.into()));
    }
    match &minted.credential {
        Some(Credential::Password(password)) => {
            variables.push(("PGPASSFILE", passfile(files, &here, &password.password)?.into()));
        }
        Some(Credential::AccessToken(token)) if token.usage() == AccessTokenUsage::Password => {
            variables.push(("PGPASSFILE", passfile(files, &here, &token.access_token)?.into()));
        }
        Some(Credential::Certificate(pair)) => {
            variables.push(("PGSSLCERT", private(files, "user.pem", &pair.certificate_chain_pem)?.into()));
            variables.push(("PGSSLKEY", private(files, "user.key", &pair.private_key_pem)?.into()));
        }
        Some(Credential::AccessToken(_)) | None => {
            return Err("psql cannot log in with this kind of credential; mint without --psql".into());
        }
    }
    Ok(variables)
}

/// For this server and this user alone, wherever psql is told to connect later.
fn passfile(files: &Path, here: &[String; 4], password: &str) -> Result<PathBuf, Complaint> {
    private(files, "passfile", &format!("{}:{}\n", here.join(":"), escaped(password)))
}

fn escaped(field: &str) -> String {
    field.replace('\\', "\\\\").replace(':', "\\:")
}

fn private(files: &Path, name: &str, content: &str) -> Result<PathBuf, Complaint> {
    let path = files.join(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(content.as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use keyferry_proto::v1::PasswordCredential;

    use super::*;

    #[test]
    fn the_password_is_in_a_file_of_ones_own_and_in_no_variable() {
        let files = tempfile::tempdir().unwrap();
        let minted = MintDatabaseTokenResponse {
            user: "kf_1".to_owned(),
            credential: Some(Credential::Password(PasswordCredential { password: r"a:b\c".to_owned() })),
            ..MintDatabaseTokenResponse::default()
        };
        let mut connection = DatabaseConnection { host: "10.0.0.1".to_owned(), port: 5432, ..Default::default() };
        connection.set_engine(DatabaseEngine::Postgresql);
        connection.tls_server_name = "db.internal".to_owned();
        let variables = variables(&minted, &connection, files.path()).unwrap();
        let value = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_str().unwrap());
        assert_eq!((value("PGHOST"), value("PGHOSTADDR")), (Some("db.internal"), Some("10.0.0.1")));
        assert_eq!((value("PGSSLMODE"), value("PGSSLROOTCERT")), (Some("verify-full"), Some("system")));
        let passfile = value("PGPASSFILE").unwrap();
        assert_eq!(std::fs::read_to_string(passfile).unwrap(), "db.internal:5432:*:kf_1:a\\:b\\\\c\n");
        assert!(variables.iter().all(|(_, value)| !value.to_str().unwrap().contains("a:b")));
        connection.set_engine(DatabaseEngine::Mysql);
        assert!(super::variables(&minted, &connection, files.path()).is_err());
    }
}
