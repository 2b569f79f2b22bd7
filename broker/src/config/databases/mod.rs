//! `[databases.NAME]`, the roles in them, and `[leases]`. One file per kind of database.

mod cockroach;
mod postgres;
mod roles;
mod server;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::roles::Offer;
pub(super) use self::server::{identifier, secret};
use super::kind::{count, duration, one_of};
use super::reader::Reader;
use super::section::Section;
use crate::databases::{DatabaseSettings, LeaseSettings};
use crate::names::DatabaseName;

const ABOUT: &str = "A database that tokens are minted for. Each kind has a guide in `docs`.";

#[derive(Clone, Copy, PartialEq, Eq)]
enum DatabaseKind {
    Postgres,
    Cockroach,
}

impl DatabaseKind {
    const ALL: [(&str, Self); 2] = [("postgres", Self::Postgres), ("cockroach", Self::Cockroach)];

    fn offer(self) -> &'static Offer {
        match self {
            Self::Postgres => &postgres::OFFER,
            Self::Cockroach => &cockroach::OFFER,
        }
    }
}

pub(super) fn read(reader: &mut Reader<'_>) -> BTreeMap<DatabaseName, DatabaseSettings> {
    reader.named("databases", ABOUT, |id| DatabaseName::from_id(id).map_err(|error| error.to_string()), read_one)
}

fn read_one(s: &mut Section<'_, '_>) -> DatabaseSettings {
    let kind = s.chosen("kind", &one_of(DatabaseKind::ALL), "What it is.");
    let is = |wanted| kind.map(|kind| kind == wanted);
    // They come first, as they tell which of the database's own keys are needed.
    let roles = roles::read(s, kind.map(DatabaseKind::offer));
    let postgres = s.variant("postgres", is(DatabaseKind::Postgres), |s| postgres::read(s, &roles));
    let cockroach = s.variant("cockroach", is(DatabaseKind::Cockroach), |s| cockroach::read(s, &roles));
    match kind {
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
