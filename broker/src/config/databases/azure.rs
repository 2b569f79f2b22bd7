//! Kinds `azure-postgres`, `azure-mysql` and `azure-sql`: tokens of identities in Entra.

use super::roles::{self, Credential, Offer, Role, Roles};
use super::server::host;
use crate::config::kind::{FileUse, Kind, count, file, made_of, text};
use crate::config::section::Section;
use crate::databases::cloud::{AzureEngine, AzureSettings};

pub(super) const OFFER: Offer =
    Offer { credentials: &[Credential::EntraToken], check_user: |_| Ok(()), has_creator_roles: false };

pub(super) fn read(s: &mut Section<'_, '_>, engine: AzureEngine, roles: &Roles) -> AzureSettings {
    let (port, scope) = match engine {
        AzureEngine::Postgres => ("5432", OPEN_SOURCE),
        AzureEngine::Mysql => ("3306", OPEN_SOURCE),
        AzureEngine::SqlServer => ("1433", "https://database.windows.net/.default"),
    };
    AzureSettings {
        engine,
        host: s.required("host", host(), "Host name; the server's certificate must carry it."),
        port: s.with_default("port", count(1..=65_535), port, "TCP port."),
        database: s.with_default("database", database(), "", "The database to connect to; empty: the caller chooses."),
        ca: s.optional(
            "ca",
            &file(FileUse::Read),
            "CAs (PEM) that the server's certificate must chain to; callers use their system's without it.",
        ),
        scope: s.with_default(
            "scope",
            scope_of_a_resource(),
            scope,
            "What tokens are for; sovereign clouds have others.",
        ),
        guard: super::budgets::read(
            s,
            "600",
            "Tokens that this replica may ask Entra for in any minute. A machine's metadata service answers 20 in a \
             second.",
        ),
        roles: roles::of(roles, |role| if let Role::EntraToken(role) = role { Some(role) } else { None }),
    }
}

const OPEN_SOURCE: &str = "https://ossrdbms-aad.database.windows.net/.default";

pub(in crate::config) fn scope_of_a_resource() -> Kind<String> {
    text("a resource's URI and /.default", "scope", |scope| {
        let resource = scope.strip_suffix("/.default").ok_or("does not end in /.default")?;
        let host = resource.strip_prefix("https://").ok_or("does not begin with https://")?;
        made_of(host, 253, |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '/'))
    })
}

fn database() -> Kind<String> {
    text("a name of at most 128 characters", "name", |name| {
        if name.is_empty() { Ok(()) } else { made_of(name, 128, |c| !c.is_control()) }
    })
}
