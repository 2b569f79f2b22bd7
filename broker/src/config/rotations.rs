//! `[rotations.NAME]`

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::databases::{identifier, secret};
use super::kind::{Kind, count, duration, made_of, one_of, text};
use super::reader::Reader;
use super::section::Section;
use super::stores::StoreSettings;
use crate::databases::{CockroachDatabase, DatabaseSettings, PostgresDatabase, SigningSettings};
use crate::names::{DatabaseName, SecretName, StoreName};
use crate::rotation::schedule::{Cron, Rhythm, Schedule, Window};
use crate::rotation::settings::{RotationSettings, Strategy, TwoUsers};
use crate::rotation::strategies::generate::{Alphabet, Form, KeyKind};
use crate::rotation::strategies::postgres::{Place, ValueFormat};

const ABOUT: &str = "A secret whose value the broker replaces: when it is told to, and by itself when a schedule says so. \
                     `docs/rotation.md` tells how. All times are in UTC.";

/// One transaction changes them all.
const MOST_TARGETS: usize = 16;

const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// What else the configuration declares.
pub(super) struct Surroundings<'a> {
    pub(super) stores: &'a BTreeMap<StoreName, StoreSettings>,
    pub(super) databases: &'a BTreeMap<DatabaseName, DatabaseSettings>,
    pub(super) issuer: Option<&'a SigningSettings>,
}

impl Surroundings<'_> {
    /// Whether the broker signs with it.
    fn signs_with(&self, secret: &SecretName) -> bool {
        let authorities = self.databases.values().filter_map(|database| match database {
            DatabaseSettings::Postgres(PostgresDatabase { certificates, .. })
            | DatabaseSettings::Cockroach(CockroachDatabase { certificates, .. }) => certificates.as_ref(),
            DatabaseSettings::CloudSql(_) | DatabaseSettings::Spanner(_) | DatabaseSettings::Azure(_) => None,
        });
        let mut of_authorities =
            authorities.flat_map(|settings| [&settings.authority.certificate, &settings.authority.key]);
        of_authorities.any(|own| own == secret) || self.issuer.is_some_and(|issuer| issuer.secret == *secret)
    }

    /// Whether a role's client certificates are for this user of the server.
    fn certifies(&self, host: &str, port: u16, user: &str) -> bool {
        let certificates = self.databases.values().filter_map(|database| match database {
            DatabaseSettings::Postgres(PostgresDatabase { certificates, .. }) => certificates.as_ref(),
            DatabaseSettings::Cockroach(_)
            | DatabaseSettings::CloudSql(_)
            | DatabaseSettings::Spanner(_)
            | DatabaseSettings::Azure(_) => None,
        });
        let mut there = certificates
            .filter(|settings| settings.server.host.eq_ignore_ascii_case(host) && settings.server.port == port);
        there.any(|settings| settings.roles.values().any(|role| role.user == user))
    }
}

/// What belongs to a rotation already.
#[derive(Default)]
struct Taken {
    secrets: BTreeSet<SecretName>,
    /// Of a server, which has one set of users for all its databases.
    users: BTreeSet<(String, u16, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StrategyKind {
    Generate,
    Postgres,
    External,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FormKind {
    Text,
    Hex,
    Base64,
    Uuid,
    KeyPair,
}

pub(super) fn read(reader: &mut Reader<'_>, around: &Surroundings<'_>) -> BTreeMap<String, RotationSettings> {
    let mut taken = Taken::default();
    reader.named("rotations", ABOUT, name, |s| read_one(s, around, &mut taken))
}

fn read_one(s: &mut Section<'_, '_>, around: &Surroundings<'_>, taken: &mut Taken) -> RotationSettings {
    let targets = s.list(
        "targets",
        &secret(),
        &[],
        "The secrets that get the same new value, `stores/NAME/secrets/NAME`; it is the current one when all of them \
         have it. A secret belongs to one rotation.",
    );
    let targets = check_targets(s, &targets, around, &mut taken.secrets);
    let kinds = [
        ("generate", StrategyKind::Generate),
        ("postgres", StrategyKind::Postgres),
        ("external", StrategyKind::External),
    ];
    let kind = s.chosen(
        "kind",
        &one_of(kinds),
        "How the new value comes to be: the broker generates it; it is the password of one of two PostgreSQL users that \
         take turns; or somebody else adds it, and the broker tells subscribers and retires the old one.",
    );
    let is = |wanted| kind.map(|kind| kind == wanted);
    let form = s.variant("generate", is(StrategyKind::Generate), form);
    let two_users = s.variant("postgres", is(StrategyKind::Postgres), |s| two_users(s, around, &mut taken.users));
    RotationSettings {
        targets,
        strategy: match kind {
            Some(StrategyKind::Generate) => Strategy::Generate(form),
            Some(StrategyKind::Postgres) => Strategy::Postgres(two_users),
            Some(StrategyKind::External) | None => Strategy::External,
        },
        schedule: schedule(s),
        window: s
            .optional("window", &window(), "The hours in which a rotation may start, such as `22:00-04:00`; any, without it.")
            .and_then(|text| Window::parse(&text).ok()),
        retire_after: s.with_default(
            "retire_after",
            duration("1s", "8784h"),
            "24h",
            "When the old version is disabled though subscribers still hold it, or nobody subscribes.",
        ),
        subscriber_grace: s.with_default(
            "subscriber_grace",
            duration("0s", "24h"),
            "1m",
            "How long the old version stays at least, so that subscribers which are just reconnecting are not forgotten.",
        ),
        give_up_after: s.with_default(
            "give_up_after",
            duration("1s", "8784h"),
            "24h",
            "How long a new version is tried to be made current; then the rotation fails, and the old version stays.",
        ),
    }
}

fn check_targets(
    s: &mut Section<'_, '_>,
    targets: &[String],
    around: &Surroundings<'_>,
    taken: &mut BTreeSet<SecretName>,
) -> Vec<SecretName> {
    let targets: Vec<_> = targets.iter().filter_map(|target| SecretName::parse(target).ok()).collect();
    if targets.len() > MOST_TARGETS {
        s.refuse("targets", &format!("has more than {MOST_TARGETS} secrets; leave some out"));
    }
    for target in &targets {
        if !around.stores.contains_key(target.store()) {
            s.refuse(
                "targets",
                &format!("{target} is in a store that is not declared; add [stores.{}]", target.store_id()),
            );
        }
        if around.signs_with(target) {
            let message = format!(
                "{target} is a key that the broker signs with, which it takes up and lets go by the ages of its versions; \
                 leave it out, and add a version when another is due"
            );
            s.refuse("targets", &message);
        }
        if !taken.insert(target.clone()) {
            s.refuse("targets", &format!("{target} is a target already; name it once in all rotations"));
        }
    }
    targets
}

fn form(s: &mut Section<'_, '_>) -> Form {
    let forms = [
        ("text", FormKind::Text),
        ("hex", FormKind::Hex),
        ("base64", FormKind::Base64),
        ("uuid", FormKind::Uuid),
        ("key-pair", FormKind::KeyPair),
    ];
    let form = s.with_default(
        "form",
        one_of(forms),
        "text",
        "What is generated: characters of an alphabet, random bytes written in hexadecimal or base64, a UUID, or a \
         private key (PKCS #8) with its public key, in PEM.",
    );
    let length: usize = s.with_default(
        "length",
        count(1..=4096),
        "32",
        "Of `text`: its characters. Of `hex` and `base64`: the bytes that are written so.",
    );
    let alphabet = s.with_default("alphabet", alphabet(), ALPHABET, "The characters that a `text` is made of.");
    let keys = [("p256", KeyKind::P256), ("ed25519", KeyKind::Ed25519), ("rsa-3072", KeyKind::Rsa3072)];
    let key = s.with_default("algorithm", one_of(keys), "p256", "Of a `key-pair`.");
    let form = match form {
        FormKind::Text => {
            let Ok(alphabet) = Alphabet::parse(&alphabet) else { return Form::Uuid };
            Form::Text { length, alphabet }
        }
        FormKind::Hex => Form::Hex(length),
        FormKind::Base64 => Form::Base64(length),
        FormKind::Uuid => Form::Uuid,
        FormKind::KeyPair => Form::KeyPair(key),
    };
    if let Some(weakness) = form.weakness().filter(|_| s.are_sound(&["form", "length", "alphabet"]) && !s.is_foreign())
    {
        s.refuse_missing("length", &format!("{weakness}; raise it"));
    }
    form
}

fn two_users(
    s: &mut Section<'_, '_>,
    around: &Surroundings<'_>,
    taken: &mut BTreeSet<(String, u16, String)>,
) -> TwoUsers {
    let database = s.required("database", database(), "The NAME of the `[databases.NAME]` that the users are in.");
    let users = s.list(
        "users",
        &identifier(),
        &[],
        "Two users with the same rights. One is in use, and the other gets the next password; the one whose version \
         retires cannot log in any more.",
    );
    let formats = [("json", ValueFormat::Json), ("url", ValueFormat::Url)];
    let format = s.with_default(
        "format",
        one_of(formats),
        "json",
        "The value: an object of `user`, `password`, `host`, `port` and `database`, or `postgresql://…`.",
    );
    let is_chosen = !s.is_foreign();
    let users = match <[String; 2]>::try_from(users) {
        Ok(users) if users[0] != users[1] => users,
        Ok(_) | Err(_) => {
            if is_chosen && s.are_sound(&["users"]) && s.is_given("users") {
                s.refuse("users", "are not two; write two different names");
            }
            [String::new(), String::new()]
        }
    };
    let found = DatabaseName::from_id(&database).ok().and_then(|name| around.databases.get_key_value(&name));
    let place = match found {
        Some((_, DatabaseSettings::Postgres(PostgresDatabase { users: Some(settings), .. }))) => {
            if users.contains(&settings.user) {
                s.refuse("users", "has the broker's own login, which it would shut out; name two others");
            }
            for user in users.iter().filter(|user| !user.is_empty()) {
                if around.certifies(&settings.host, settings.port, user) {
                    s.refuse(
                        "users",
                        &format!("{user} logs in by certificates, too, which would end with its turn; name another"),
                    );
                }
                if !taken.insert((settings.host.to_ascii_lowercase(), settings.port, user.clone())) {
                    s.refuse("users", &format!("{user} is rotated by another rotation already; name another"));
                }
            }
            Some(Place { host: settings.host.clone(), port: settings.port, database: settings.database.clone() })
        }
        Some(_) | None => None,
    };
    if place.is_none() && is_chosen && s.is_given("database") && s.are_sound(&["database"]) {
        s.refuse("database", &format!("there is no [databases.{database}] of kind \"postgres\" with a user; add it"));
    }
    TwoUsers {
        database: found.map_or_else(any_database, |(name, _)| name.clone()),
        users,
        format,
        place: place.unwrap_or(Place { host: String::new(), port: 0, database: String::new() }),
    }
}

fn schedule(s: &mut Section<'_, '_>) -> Option<Schedule> {
    let cron = s.optional(
        "schedule",
        &cron(),
        "When to rotate, as cron has it: minute, hour, day of month, month, day of week. Runs that were missed are made up \
         for by one.",
    );
    let every =
        s.optional("every", &duration("1m", "8784h"), "How long after the start of one rotation the next one starts.");
    let jitter = s.with_default(
        "jitter",
        duration("0s", "24h"),
        "0s",
        "Each run starts so much later at most, differently for each run and rotation.",
    );
    let rhythm = match (cron, every) {
        (Some(cron), None) => Rhythm::Cron(Cron::parse(&cron).ok()?),
        (None, Some(interval)) => Rhythm::Every(interval),
        (None, None) => {
            if jitter > Duration::ZERO && s.are_sound(&["schedule", "every"]) {
                s.refuse("jitter", "has nothing to spread; write schedule or every, or remove it");
            }
            return None;
        }
        (Some(_), Some(_)) => {
            s.refuse("every", "cannot go with schedule; remove one of them");
            return None;
        }
    };
    if matches!(rhythm, Rhythm::Every(interval) if jitter > interval) {
        s.refuse("jitter", "is longer than every; shorten it");
    }
    Some(Schedule { rhythm, jitter })
}

fn name(id: &str) -> Result<String, String> {
    DatabaseName::from_id(id).map(|_| id.to_owned()).map_err(|error| error.to_string().replace("database", "rotation"))
}

fn any_database() -> DatabaseName {
    // Stands in where a problem was noted, or the kind has none.
    DatabaseName::from_id("none").unwrap_or_else(|_| unreachable!("a plain name"))
}

fn database() -> Kind<String> {
    text("the NAME of a [databases.NAME]", "name", |id| {
        DatabaseName::from_id(id).map(drop).map_err(|error| error.to_string())
    })
}

fn alphabet() -> Kind<String> {
    text("two or more different characters of ASCII, without spaces", "text", |text| Alphabet::parse(text).map(drop))
}

fn cron() -> Kind<String> {
    text("five fields, such as \"30 3 * * sun\"", "cron expression", |text| {
        made_of(text, 256, |c| c.is_ascii_graphic() || c == ' ')?;
        Cron::parse(text).map(drop)
    })
}

fn window() -> Kind<String> {
    text("two times, such as \"22:00-04:00\"", "`HH:MM-HH:MM`", |text| Window::parse(text).map(drop))
}
