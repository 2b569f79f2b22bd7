//! Kind `spanner`: tokens of service accounts, for one database.

use super::cloud_sql::{google_credential, iam_url};
use super::roles::{self, Credential, Offer, Role, Roles};
use super::server::host;
use crate::config::kind::{Kind, count, made_of, text};
use crate::config::section::Section;
use crate::config::stores::project;
use crate::databases::cloud::SpannerSettings;

pub(super) const OFFER: Offer =
    Offer { credentials: &[Credential::GoogleToken], check_user: |_| Ok(()), has_creator_roles: true };

pub(super) fn read(s: &mut Section<'_, '_>, roles: &Roles) -> SpannerSettings {
    SpannerSettings {
        database: s.required("database", database(), "The database's full name."),
        host: s.with_default("host", host(), "spanner.googleapis.com", "Where callers reach Spanner."),
        port: s.with_default("port", count(1..=65_535), "443", "TCP port."),
        credential: google_credential(s),
        iam_url: iam_url(s),
        guard: super::budgets::read(
            s,
            "600",
            "Tokens that this replica may ask Google for in any minute. Google counts those of the whole project.",
        ),
        roles: roles::of(roles, |role| if let Role::GoogleToken(role) = role { Some(role) } else { None }),
    }
}

fn database() -> Kind<String> {
    const FORM: &str = "projects/PROJECT/instances/INSTANCE/databases/DATABASE";
    let project = project();
    text(FORM, "resource name", move |name| match name.split('/').collect::<Vec<_>>()[..] {
        ["projects", id, "instances", instance, "databases", database] => {
            (project.parse)(id, std::path::Path::new("")).map_err(|_| "names no project by its id".to_owned())?;
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            made_of(instance, 64, fits)?;
            made_of(database, 30, |c| fits(c) || c == '_')
        }
        _ => Err("is not the name of a database".to_owned()),
    })
}
