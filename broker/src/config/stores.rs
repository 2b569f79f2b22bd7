//! `[stores.NAME]`: where the secrets are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::credentials::{Names, credential_name};
use super::kind::{FileUse, Kind, address, count, duration, file, made_of, one_of, path, text};
use super::reader::Reader;
use super::section::Section;
use super::url::{service_url, vault_url};
use crate::names::StoreName;
use crate::providers::credential::Cloud;
use crate::providers::guard::{Budget, GuardSettings};
use crate::secrets::Freshness;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreSettings {
    Local(LocalStore),
    Gcp(GcpStore),
    Azure(AzureStore),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalStore {
    pub file: PathBuf,
    pub key_file: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GcpStore {
    pub project: String,
    pub project_number: Option<u64>,
    /// Of a regional secret manager; the global one without it.
    pub location: Option<String>,
    /// A name under `[credentials]`.
    pub credential: String,
    pub endpoint: Option<String>,
    /// Zero: never.
    pub poll_interval: Duration,
    pub guard: GuardSettings,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureStore {
    pub vault_url: String,
    /// A name under `[credentials]`.
    pub credential: String,
    /// Where the vault is reached, when its name does not lead there.
    pub address: Option<SocketAddr>,
    pub ca: Option<PathBuf>,
    /// Zero: never.
    pub poll_interval: Duration,
    pub guard: GuardSettings,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StoreKind {
    Local,
    Gcp,
    Azure,
}

const ABOUT: &str = "A place where secrets are; its secrets are called `stores/NAME/secrets/…`. \
                     At least one is needed.";

pub(super) fn read(
    reader: &mut Reader<'_>,
    credentials: &Names,
) -> (BTreeMap<StoreName, StoreSettings>, BTreeMap<StoreName, Freshness>) {
    let mut declared = false;
    let stores = reader.named("stores", ABOUT, store_name, |s| {
        declared = true;
        (read_one(s, credentials), freshness(s))
    });
    if !declared {
        reader.missing_entry(
            "stores",
            "no store is declared; write a table such as \
                             [stores.main] with kind = \"local\", \"gcp\" or \"azure\"",
        );
    }
    stores.into_iter().map(|(name, (store, freshness))| ((name.clone(), store), (name, freshness))).unzip()
}

fn freshness(s: &mut Section<'_, '_>) -> Freshness {
    Freshness {
        latest: s.with_default(
            "latest_fresh_for",
            duration("0s", "24h"),
            "5m",
            "How long `latest` is served without asking the store: as long a rotation may go unnoticed that no event \
             tells of. A rotation through this replica, or told to it by an event, is served at once; others serve the \
             old value until then.",
        ),
        pinned: s.with_default(
            "pinned_fresh_for",
            duration("0s", "24h"),
            "30m",
            "The same for versions asked for by their id: as long a disabled or destroyed one may still be served, \
             where neither a change through this replica nor an event tells.",
        ),
        labels: s.with_default(
            "labels_fresh_for",
            duration("0s", "24h"),
            "5m",
            "The same for labels, and so how long policy goes by old ones; while the store cannot answer, for as long \
             again at most, or for `stale_if_error` where that is shorter.",
        ),
        stale: s.with_default(
            "stale_if_error",
            duration("0s", "24h"),
            "1h",
            "How long past its freshness a value is still served, labelled `STALE`, while the store cannot answer; \
             never past a change that is known of, nor once the store has refused. `0s`: never.",
        ),
    }
}

fn read_one(s: &mut Section<'_, '_>, credentials: &Names) -> StoreSettings {
    let kinds = [("local", StoreKind::Local), ("gcp", StoreKind::Gcp), ("azure", StoreKind::Azure)];
    let kind = s.chosen(
        "kind",
        &one_of(kinds),
        "An encrypted file of the broker's own, Google Cloud Secret Manager, or Azure Key Vault.",
    );
    let is = |wanted| kind.map(|kind| kind == wanted);
    let local = s.variant("local", is(StoreKind::Local), |s| LocalStore {
        file: s.required("file", path(), "The store's file; made on first start where it is missing."),
        key_file: s.required(
            "key_file",
            file(FileUse::MadePrivately),
            "The key that the file is encrypted under; nobody but the broker may read it.",
        ),
    });
    let gcp = s.variant("gcp", is(StoreKind::Gcp), |s| GcpStore {
        project: s.required("project", project(), "The id of the project, not its number."),
        project_number: s.optional(
            "project_number",
            &count(1..=i64::MAX.unsigned_abs()),
            "The project's number, which the events of `[events.NAME]` call it by.",
        ),
        location: s.optional("location", &location(), "The region of a regional secret manager."),
        credential: s.with_default(
            "credential",
            credential_name(),
            "google",
            "The entry of `[credentials]` to call it with.",
        ),
        endpoint: s.optional("endpoint", &service_url(), "Where the API is, when not at Google's public address."),
        poll_interval: poll_interval(s),
        guard: guard(s, &GOOGLE),
    });
    let azure = s.variant("azure", is(StoreKind::Azure), |s| AzureStore {
        vault_url: s.required("vault_url", vault_url(), "The vault."),
        credential: s.with_default(
            "credential",
            credential_name(),
            "azure",
            "The entry of `[credentials]` to call it with.",
        ),
        address: s.optional("address", &address(), "Where to connect, when the vault's name does not lead there."),
        ca: s.optional("ca", &file(FileUse::Read), "CAs (PEM) of the vault's HTTPS, instead of the system's."),
        poll_interval: poll_interval(s),
        guard: guard(s, &AZURE),
    });
    match kind {
        Some(StoreKind::Gcp) => {
            check_credential(s, "credential", &gcp.credential, Cloud::Google, credentials);
            StoreSettings::Gcp(gcp)
        }
        Some(StoreKind::Azure) => {
            check_credential(s, "credential", &azure.credential, Cloud::Azure, credentials);
            StoreSettings::Azure(azure)
        }
        Some(StoreKind::Local) | None => StoreSettings::Local(local),
    }
}

fn poll_interval(s: &mut Section<'_, '_>) -> Duration {
    s.with_default(
        "poll_interval",
        duration("0s", "24h"),
        "15m",
        "How often each secret that was read or changed here is looked at for what no event told. It takes a tenth of \
         the metadata budget at most, and longer where that is not enough. `0s`: never.",
    )
}

/// The budgets of one kind of store: the window that its provider counts over, and a key for each class.
struct Budgets {
    window: Duration,
    most: u64,
    access: (&'static str, &'static str),
    metadata: (&'static str, &'static str),
    write: (&'static str, &'static str),
}

const GOOGLE: Budgets = Budgets {
    window: Duration::from_secs(60),
    most: 90_000,
    access: (
        "45000",
        "Reads of values that this replica may make in any minute. Google's quota is 90,000 for the whole project; \
         the budgets of all replicas, and of all stores on the project, should add up to less.",
    ),
    metadata: (
        "300",
        "Reads of metadata (labels, lists, states) that this replica may make in any minute. Google's quota is 600 \
         for the whole project.",
    ),
    write: ("300", "Writes that this replica may make in any minute. Google's quota is 600 for the whole project."),
};

const AZURE: Budgets = Budgets {
    window: Duration::from_secs(10),
    most: 4_000,
    access: (
        "1500",
        "Reads of values that this replica may make in any 10 s. Azure's quota is 4,000 for the vault, requests of \
         every class together; the budgets of all replicas, and of all stores on the vault, should add up to less.",
    ),
    metadata: (
        "400",
        "Reads of metadata (tags, lists, states) that this replica may make in any 10 s; they count towards the \
         same 4,000.",
    ),
    write: (
        "100",
        "Writes that this replica may make in any 10 s. Azure's quota is 300 for the vault, and they count towards \
         the 4,000 too.",
    ),
};

fn guard(s: &mut Section<'_, '_>, budgets: &Budgets) -> GuardSettings {
    let mut budget = |key, (default, meaning)| Budget {
        limit: s.with_default(key, count(1..=budgets.most), default, meaning),
        window: budgets.window,
    };
    GuardSettings {
        access: budget("access_budget", budgets.access),
        metadata: budget("metadata_budget", budgets.metadata),
        write: budget("write_budget", budgets.write),
        maximum_wait: s.with_default(
            "maximum_wait",
            duration("100ms", "5m"),
            "5s",
            "How long a call may wait in all for its budget, for pauses that the provider asked for, and between its \
             attempts. One that would wait longer is refused at once, and told how long.",
        ),
        request_timeout: s.with_default(
            "request_timeout",
            duration("1s", "1m"),
            "10s",
            "How long the provider has for one answer.",
        ),
    }
}

pub(super) fn check_credential(s: &mut Section<'_, '_>, key: &str, name: &str, cloud: Cloud, credentials: &Names) {
    let kind = match cloud {
        Cloud::Google => "google-metadata",
        Cloud::Azure => "azure-managed-identity",
    };
    match credentials.get(name) {
        _ if !s.are_sound(&[key]) => {}
        None => {
            let message = format!("there is no [credentials.{name}]; add it, for example with kind = \"{kind}\"");
            s.refuse(key, &message);
        }
        Some(Some(other)) if *other != cloud => {
            let message = format!("\"{name}\" is of the other cloud; name one such as of kind \"{kind}\"");
            s.refuse(key, &message);
        }
        Some(_) => {}
    }
}

fn store_name(id: &str) -> Result<StoreName, String> {
    StoreName::from_id(id).map_err(|error| error.to_string())
}

pub(super) fn project() -> Kind<String> {
    let expects = "a project id: 6 to 30 lower-case letters, digits and hyphens, a letter first, no hyphen last";
    text(expects, "project id", |id| {
        made_of(id, 30, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')?;
        let fits = id.len() >= 6 && id.starts_with(|c: char| c.is_ascii_lowercase()) && !id.ends_with('-');
        if fits { Ok(()) } else { Err("is not the id of a project".to_owned()) }
    })
}

pub(super) fn location() -> Kind<String> {
    text("a region such as \"europe-west3\"", "region", |region| {
        made_of(region, 32, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')?;
        let fits = region.starts_with(|c: char| c.is_ascii_lowercase()) && region.contains('-');
        if fits { Ok(()) } else { Err("is not a region".to_owned()) }
    })
}
