//! Kind `postgres`: users made for each lease, or certificates of users that are there.

use std::path::PathBuf;

use super::roles::{self, Credential, Offer, Role, Roles};
use super::server::{certificates, identifier, secret, server};
use crate::config::kind::{FileUse, count, duration, file};
use crate::config::section::Section;
use crate::databases::{LoginSettings, PostgresDatabase, PostgresSettings};
use crate::names::SecretName;

pub(super) const OFFER: Offer =
    Offer { credentials: &[Credential::Password, Credential::Certificate], check_user, has_creator_roles: false };

pub(super) fn read(s: &mut Section<'_, '_>, roles: &Roles) -> PostgresDatabase {
    let server = server(s, "5432");
    let leased = roles::of(roles, |role| if let Role::Password(role) = role { Some(role) } else { None });
    let certified = roles::of(roles, |role| if let Role::Certificate(role) = role { Some(role) } else { None });
    let user = s.optional(
        "user",
        &identifier(),
        "The broker's own login, which makes the users of roles with `credential = \"password\"`; none is needed \
         without such roles.",
    );
    if user.is_none() && !leased.is_empty() && s.are_sound(&["user"]) {
        s.refuse_missing("user", "is missing; write the broker's own login, which makes and removes the users");
    }
    if let Some((id, _)) = certified.iter().find(|(_, role)| Some(&role.user) == user.as_ref()) {
        let advice = format!("is also the user of roles.{id}, whose callers would be the broker; choose another there");
        s.refuse("user", &advice);
    }
    let login = login(s, user.is_some());
    let connections = s.with_default("connections", count(1..=64), "8", "Connections that the broker holds at most.");
    let timeout =
        s.with_default("timeout", duration("100ms", "60s"), "5s", "How long a statement or a login may take.");
    let certificates = certificates(s, &server, certified);
    let users = user.map(|user| PostgresSettings {
        host: server.host,
        port: server.port,
        database: server.database,
        ca: server.ca,
        user,
        login,
        connections,
        timeout,
        roles: leased,
    });
    PostgresDatabase { users, certificates }
}

fn login(s: &mut Section<'_, '_>, needed: bool) -> LoginSettings {
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
            if needed && s.are_sound(&["password_secret", "certificate", "key"]) {
                let advice = "the broker needs one way to log in; write password_secret, or certificate and key";
                s.refuse_missing("password_secret", advice);
            }
            LoginSettings::Certificate { certificate: PathBuf::new(), key: PathBuf::new() }
        }
    }
}

fn check_user(user: &str) -> Result<(), String> {
    if user.starts_with("pg_") || user == "public" || user == "none" {
        return Err("is a name that PostgreSQL keeps for itself; choose another".to_owned());
    }
    Ok(())
}
