//! `[databases.NAME]`, the roles in them, and `[leases]`. One file per kind of database.

mod azure;
mod budgets;
mod cloud_sql;
mod cockroach;
mod postgres;
mod roles;
mod server;
mod spanner;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub(super) use self::azure::scope_of_a_resource;
use self::roles::Offer;
pub(super) use self::server::{identifier, secret};
use super::credentials::Names;
use super::kind::{count, duration, one_of};
use super::reader::Reader;
use super::section::Section;
use super::stores::check_credential;
use crate::databases::cloud::AzureEngine;
use crate::databases::{DatabaseSettings, LeaseSettings};
use crate::names::DatabaseName;
use crate::providers::credential::Cloud;

const ABOUT: &str = "A database that tokens are minted for. Each kind has a guide in `docs`.";

#[derive(Clone, Copy, PartialEq, Eq)]
enum DatabaseKind {
    Postgres,
    Cockroach,
    CloudSql,
    Spanner,
    AzurePostgres,
    AzureMysql,
    AzureSql,
}

impl DatabaseKind {
    const ALL: [(&str, Self); 7] = [
        ("postgres", Self::Postgres),
        ("cockroach", Self::Cockroach),
        ("cloud-sql", Self::CloudSql),
        ("spanner", Self::Spanner),
        ("azure-postgres", Self::AzurePostgres),
        ("azure-mysql", Self::AzureMysql),
        ("azure-sql", Self::AzureSql),
    ];

    fn offer(self) -> &'static Offer {
        match self {
            Self::Postgres => &postgres::OFFER,
            Self::Cockroach => &cockroach::OFFER,
            Self::CloudSql => &cloud_sql::OFFER,
            Self::Spanner => &spanner::OFFER,
            Self::AzurePostgres | Self::AzureMysql | Self::AzureSql => &azure::OFFER,
        }
    }
}

pub(super) fn read(reader: &mut Reader<'_>, credentials: &Names) -> BTreeMap<DatabaseName, DatabaseSettings> {
    let name = |id: &str| DatabaseName::from_id(id).map_err(|error| error.to_string());
    reader.named("databases", ABOUT, name, |s| read_one(s, credentials))
}

fn read_one(s: &mut Section<'_, '_>, credentials: &Names) -> DatabaseSettings {
    let kind = s.chosen("kind", &one_of(DatabaseKind::ALL), "What it is.");
    let is = |wanted| kind.map(|kind| kind == wanted);
    // They come first, as they tell which of the database's own keys are needed.
    let roles = roles::read(s, kind.map(DatabaseKind::offer), credentials);
    let postgres = s.variant("postgres", is(DatabaseKind::Postgres), |s| postgres::read(s, &roles));
    let cockroach = s.variant("cockroach", is(DatabaseKind::Cockroach), |s| cockroach::read(s, &roles));
    let cloud_sql = s.variant("cloud-sql", is(DatabaseKind::CloudSql), |s| cloud_sql::read(s, &roles));
    let spanner = s.variant("spanner", is(DatabaseKind::Spanner), |s| spanner::read(s, &roles));
    let mut azure = |name, kind, engine| s.variant(name, is(kind), |s| azure::read(s, engine, &roles));
    let azure_postgres = azure("azure-postgres", DatabaseKind::AzurePostgres, AzureEngine::Postgres);
    let azure_mysql = azure("azure-mysql", DatabaseKind::AzureMysql, AzureEngine::Mysql);
    let azure_sql = azure("azure-sql", DatabaseKind::AzureSql, AzureEngine::SqlServer);
    match kind {
        Some(DatabaseKind::CloudSql) => {
            check_credential(s, "credential", &cloud_sql.credential, Cloud::Google, credentials);
            DatabaseSettings::CloudSql(cloud_sql)
        }
        Some(DatabaseKind::Spanner) => {
            check_credential(s, "credential", &spanner.credential, Cloud::Google, credentials);
            DatabaseSettings::Spanner(spanner)
        }
        Some(DatabaseKind::AzurePostgres) => DatabaseSettings::Azure(azure_postgres),
        Some(DatabaseKind::AzureMysql) => DatabaseSettings::Azure(azure_mysql),
        Some(DatabaseKind::AzureSql) => DatabaseSettings::Azure(azure_sql),
        Some(DatabaseKind::Postgres) | None => DatabaseSettings::Postgres(postgres),
        Some(DatabaseKind::Cockroach) => DatabaseSettings::Cockroach(cockroach),
    }
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
