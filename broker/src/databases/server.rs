//! How a caller reaches a server, beside its credential.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use thiserror::Error;

use super::settings::ServerSettings;
use super::tokens::{Connection, Engine};

#[derive(Debug, Error)]
pub enum CaError {
    #[error("cannot read the CAs in {}; the file must exist and be readable", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("cannot use the CAs in {}: it {}", .0.display(), .1)]
    Unusable(PathBuf, &'static str),
}

/// To PostgreSQL, or to what speaks like it.
pub(super) fn connection(settings: &ServerSettings) -> Result<Connection, CaError> {
    let ServerSettings { host, port, database, ca: path } = settings;
    let ca = std::fs::read_to_string(path).map_err(|error| CaError::Read(path.clone(), error))?;
    super::pem::certificates(ca.as_bytes()).map_err(|fault| CaError::Unusable(path.clone(), fault))?;
    Ok(Connection {
        engine: Engine::Postgres,
        host: host.clone(),
        port: *port,
        database: database.clone(),
        ca: Arc::from(ca),
        tls_server_name: String::new(),
        instance: String::new(),
        parameters: BTreeMap::from([("sslmode".to_owned(), "verify-full".to_owned())]),
    })
}

/// What fits where a database shows who is at work: its `application_name`, a certificate's subject.
const SHOWN: usize = 63;

/// A caller as a database shows it. Nothing in it can be taken for another attribute of a name, and no two callers look
/// alike.
pub(super) fn shown(caller: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/:._-@".contains(c);
    let text: String = caller.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    if text.len() <= SHOWN && text == caller {
        return text;
    }
    // The digest is of the id itself, so whoever has the id finds it.
    let digest = digest(&SHA256, caller.as_bytes());
    let mark: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let kept: String = text.chars().take(SHOWN - 1 - mark.len()).collect();
    format!("{kept}~{mark}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_a_caller_as_it_is_where_it_fits() {
        let id = "x509/spiffe://prod.example.com/ns/web/sa/shop";
        assert_eq!(shown(id), id);
    }

    #[test]
    fn shows_odd_and_long_ids_so_that_none_is_another() {
        for id in ["oidc/corp/a b,CN=root", "oidc/corp/\u{e4}\n", &"x".repeat(64), &"x".repeat(1000)] {
            let shown = shown(id);
            assert!(shown.len() <= SHOWN && shown.contains('~'), "{shown}");
            assert!(!shown.contains([',', '=', ' ', '\n']), "{shown}");
        }
        assert_ne!(shown("oidc/corp/a b"), shown("oidc/corp/a,b"));
        assert_ne!(shown(&format!("{}1", "x".repeat(99))), shown(&format!("{}2", "x".repeat(99))));
    }
}
