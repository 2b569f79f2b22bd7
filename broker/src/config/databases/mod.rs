//! `[databases.NAME]`, the roles in them, and `[leases]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::kind::{FileUse, Kind, count, duration, file, made_of, one_of, text};
use super::reader::Reader;
use super::section::Section;
use crate::databases::{DatabaseSettings, LeaseSettings, LoginSettings, PostgresSettings, RoleSettings};
use crate::names::{DatabaseName, SecretName};

const ABOUT: &str = "A PostgreSQL server that the broker makes users in, over TLS only. It logs in with a client \
                     certificate or with a password that is a secret of a store; what that login needs is in \
                     `docs/postgres.md`.";
const ROLES_ABOUT: &str = "A role that tokens are minted for, called `databases/NAME/roles/NAME`. Every token is a \
                           database user of its own, which may do what the groups may.";

pub(super) fn read(reader: &mut Reader<'_>) -> BTreeMap<DatabaseName, DatabaseSettings> {
    reader.named("databases", ABOUT, |id| DatabaseName::from_id(id).map_err(|error| error.to_string()), read_one)
}

fn read_one(s: &mut Section<'_, '_>) -> DatabaseSettings {
    // The one kind until others are served; written out so that adding them breaks no file.
    s.required("kind", one_of([("postgres", ())]), "What it is.");
    DatabaseSettings::Postgres(PostgresSettings {
        host: s.required("host", host(), "Host name or IP address; the server's certificate must carry it."),
        port: s.with_default("port", count(1..=65_535), "5432", "TCP port."),
        database: s.required("database", identifier(), "The database to connect to."),
        ca: s.required("ca", file(FileUse::Read), "CAs (PEM) that the server's certificate must chain to."),
        user: s.required("user", identifier(), "The broker's own login."),
        login: login(s),
        connections: s.with_default("connections", count(1..=64), "8", "Connections that the broker holds at most."),
        timeout: s.with_default("timeout", duration("100ms", "60s"), "5s", "How long a statement or a login may take."),
        roles: s.named("databases.NAME.roles", ROLES_ABOUT, role_id, read_role),
    })
}

fn login(s: &mut Section<'_, '_>) -> LoginSettings {
    let password = s.optional(
        "password_secret",
        &secret(),
        "The secret that holds the login's password; its latest version is read at each login.",
    );
    let certificate =
        s.optional("certificate", &file(FileUse::Read), "The login's client certificate and chain (PEM).");
    let key = s.optional("key", &file(FileUse::ReadPrivately), "The certificate's private key (PEM).");
    let password = password.and_then(|name| SecretName::parse(&name).ok());
    match (password, certificate, key) {
        (Some(password), None, None) => LoginSettings::Password(password),
        (None, Some(certificate), Some(key)) => LoginSettings::Certificate { certificate, key },
        _ => {
            if s.are_sound(&["password_secret", "certificate", "key"]) {
                let advice = "the broker needs one way to log in; write password_secret, or certificate and key";
                s.refuse_missing("password_secret", advice);
            }
            LoginSettings::Certificate { certificate: PathBuf::new(), key: PathBuf::new() }
        }
    }
}

fn read_role(s: &mut Section<'_, '_>) -> RoleSettings {
    let role = RoleSettings {
        description: s.with_default("description", free_text(), "", "For people: what the role is for."),
        groups: s.list("groups", &identifier(), &[], "NOLOGIN roles that a token's user becomes a member of."),
        default_ttl: s.with_default("default_ttl", duration("1s", "24h"), "15m", "A token's life when none is asked."),
        max_ttl: s.with_default("max_ttl", duration("1s", "24h"), "1h", "The longest that one mint or renewal grants."),
        max_lifetime: s.with_default(
            "max_lifetime",
            duration("1s", "168h"),
            "24h",
            "The longest life with all renewals, from the mint on.",
        ),
        connection_limit: s.with_default("connection_limit", count(1..=10_000), "10", "Sessions that a user may have."),
        search_path: s.list_or_empty("search_path", &identifier(), "Schemas that a user's sessions search."),
        heir: s.optional("heir", &identifier(), "Who owns what a removed user owned; the first group without it."),
    };
    if s.are_sound(&["default_ttl", "max_ttl", "max_lifetime"]) {
        if role.default_ttl > role.max_ttl {
            s.refuse("default_ttl", "is longer than max_ttl; shorten it, or raise max_ttl");
        }
        if role.max_ttl > role.max_lifetime {
            s.refuse("max_ttl", "is longer than max_lifetime; shorten it, or raise max_lifetime");
        }
    }
    role
}

pub(super) fn leases(reader: &mut Reader<'_>) -> LeaseSettings {
    reader.section("leases", "What is handed out for databases and has to be taken back.", |s| LeaseSettings {
        live_per_caller: s.with_default(
            "live_per_caller",
            count(1..=1_000_000),
            "100",
            "Database users that one caller may hold at a time.",
        ),
        sweep_interval: s.with_default(
            "sweep_interval",
            duration("1s", "1h"),
            "1m",
            "How often databases and leases are compared: users without a lease are removed.",
        ),
    })
}

fn role_id(id: &str) -> Result<String, String> {
    let any = DatabaseName::from_id("any").map_err(|error| error.to_string())?;
    any.role(id).map(|name| name.id().to_owned()).map_err(|error| error.to_string())
}

fn secret() -> Kind<String> {
    text("the name of a secret, stores/{store}/secrets/{secret}", "secret name", |name| {
        SecretName::parse(name).map(drop).map_err(|error| error.to_string())
    })
}

/// A name in PostgreSQL: it is quoted wherever it is used, so only what cannot be quoted is refused.
fn identifier() -> Kind<String> {
    text("a name of 1 to 63 characters", "name", |name| made_of(name, 63, |c| !c.is_control()))
}

fn free_text() -> Kind<String> {
    text("text of at most 256 characters", "text", |text| {
        if text.is_empty() { Ok(()) } else { made_of(text, 256, |c| !c.is_control()) }
    })
}

fn host() -> Kind<String> {
    text("a host name or an IP address", "host", |host| {
        made_of(host, 253, |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':'))
    })
}
