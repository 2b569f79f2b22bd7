//! Kind `cloud-sql`: tokens and certificates of service accounts, for an instance that knows IAM.

use std::collections::BTreeMap;

use super::roles::{Credential, Offer, Role, Roles};
use super::server::{host, identifier};
use crate::config::credentials::credential_name;
use crate::config::kind::{Kind, count, made_of, one_of, text};
use crate::config::section::Section;
use crate::config::stores::{location, project};
use crate::config::url::service_url;
use crate::databases::cloud::{CloudSqlEngine, CloudSqlProof, CloudSqlSettings, InstanceName, Network};

pub(super) const OFFER: Offer = Offer {
    credentials: &[Credential::GoogleToken, Credential::GoogleCertificate],
    check_user: |_| Ok(()),
    has_creator_roles: false,
};

pub(super) fn read(s: &mut Section<'_, '_>, roles: &Roles) -> CloudSqlSettings {
    let networks = [("public", Network::Public), ("private", Network::Private), ("psc", Network::ServiceConnect)];
    CloudSqlSettings {
        instance: instance_in(&s.required("instance", instance(), "The instance's connection name.")),
        engine: s.with_default(
            "engine",
            one_of([("postgres", CloudSqlEngine::Postgres), ("mysql", CloudSqlEngine::Mysql)]),
            "postgres",
            "What the instance runs; SQL Server knows no IAM.",
        ),
        database: s.with_default("database", database(), "", "The database to connect to; empty: the caller chooses."),
        network: s.with_default(
            "network",
            one_of(networks),
            "private",
            "Which of the instance's addresses callers are given; `psc`: its name for Private Service Connect.",
        ),
        host: s.optional("host", &host(), "Where callers connect, when not at one of the instance's addresses."),
        port: s.optional(
            "port",
            &count(1..=65_535),
            "The TCP port; without it 5432 or 3306 for tokens, and 3307 for certificates.",
        ),
        credential: google_credential(s),
        admin_url: s.with_default(
            "admin_url",
            service_url(),
            "https://sqladmin.googleapis.com",
            "Where the Cloud SQL Admin API is.",
        ),
        iam_url: iam_url(s),
        guard: super::budgets::read(
            s,
            "600",
            "Tokens and certificates that this replica may ask Google for in any minute. Google counts those of the \
             whole project.",
        ),
        roles: roles
            .iter()
            .filter_map(|(id, role)| match role {
                Role::GoogleToken(role) => Some((id.clone(), (CloudSqlProof::Token, role.clone()))),
                Role::GoogleCertificate(role) => Some((id.clone(), (CloudSqlProof::Certificate, role.clone()))),
                Role::Password(_) | Role::Certificate(_) | Role::Jwt(_) | Role::EntraToken(_) => None,
            })
            .collect::<BTreeMap<_, _>>(),
    }
}

pub(super) fn google_credential(s: &mut Section<'_, '_>) -> String {
    s.with_default(
        "credential",
        credential_name(),
        "google",
        "The entry of `[credentials]` that acts as the roles' service accounts.",
    )
}

pub(super) fn iam_url(s: &mut Section<'_, '_>) -> String {
    s.with_default(
        "iam_url",
        service_url(),
        "https://iamcredentials.googleapis.com",
        "Where the IAM Service Account Credentials API is.",
    )
}

fn database() -> Kind<String> {
    let named = identifier();
    text("a name of at most 63 characters", "name", move |name| {
        if name.is_empty() { Ok(()) } else { (named.parse)(name, std::path::Path::new("")).map(drop) }
    })
}

fn instance() -> Kind<String> {
    let (project, region) = (project(), location());
    text("PROJECT:REGION:INSTANCE", "connection name", move |name| {
        let parts = instance_in(name);
        let here = std::path::Path::new("");
        // The project of a domain is written DOMAIN:PROJECT.
        let id = parts.project.rsplit(':').next().unwrap_or_default();
        (project.parse)(id, here).map_err(|_| "does not begin with the id of a project".to_owned())?;
        (region.parse)(&parts.region, here).map_err(|_| "has no region in its middle".to_owned())?;
        let is_domain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:".contains(c);
        made_of(&parts.project, 128, is_domain)?;
        made_of(&parts.name, 98, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    })
}

fn instance_in(name: &str) -> InstanceName {
    let mut parts = name.rsplitn(3, ':').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let (name, region, project) = (next(), next(), next());
    InstanceName { project, region, name }
}
