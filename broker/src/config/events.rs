//! `[events.NAME]`: who tells the broker what happened to secrets.

use std::collections::BTreeMap;
use std::time::Duration;

use super::credentials::{Names, credential_name};
use super::issuers::keys;
use super::kind::{Kind, made_of, one_of, text};
use super::reader::Reader;
use super::section::Section;
use super::stores::{StoreSettings, check_credential};
use super::url::{https_url, service_url};
use crate::identity::token::{Algorithm, IssuerSettings, KeySource};
use crate::names::StoreName;
use crate::providers::credential::Cloud;
use crate::rotation::sources::{Demand, EventSettings, PullSettings, PushSettings, SenderSettings, SourceSettings};

const ABOUT: &str = "A source of events about secrets. Events make a rotation in the cloud known at once; without them it \
                     is found by the stores' `poll_interval`, and readers see it when what is cached is no longer fresh. \
                     Webhooks are at `/events/NAME` on `[listen] web`. How to set the clouds up is in `docs/gcp.md` and \
                     `docs/azure.md`.";

/// What Event Grid's own application is called in every tenant, and the role by which it may deliver.
const EVENT_GRID: &str = "4962773b-9cdb-44cf-a8bf-237846a00ab7";
const EVENT_GRID_ROLE: &str = "AzureEventGridSecureWebhookSubscriber";
const GOOGLE: &str = "https://accounts.google.com";

#[derive(Clone, Copy, PartialEq, Eq)]
enum SourceKind {
    Pull,
    Push,
    EventGrid,
}

pub(super) fn read(
    reader: &mut Reader<'_>,
    stores: &BTreeMap<StoreName, StoreSettings>,
    credentials: &Names,
    web: bool,
) -> BTreeMap<String, EventSettings> {
    let mut events = reader.named("events", ABOUT, source_name, |s| read_one(s, stores, credentials, web));
    for (name, event) in &mut events {
        event.name_issuers(name);
    }
    events
}

fn read_one(
    s: &mut Section<'_, '_>,
    stores: &BTreeMap<StoreName, StoreSettings>,
    credentials: &Names,
    web: bool,
) -> EventSettings {
    let kinds =
        [("pubsub", SourceKind::Pull), ("pubsub-push", SourceKind::Push), ("event-grid", SourceKind::EventGrid)];
    let meaning = "A Pub/Sub subscription that the broker pulls from, one that pushes to the broker's web port, or an \
                   Event Grid subscription that delivers there.";
    let kind = s.chosen("kind", &one_of(kinds), meaning);
    let is = |wanted| kind.map(|kind| kind == wanted);
    let told = s.list("stores", &store(), &[], "The stores whose secrets it may tell of; others are passed over.");
    let told = told.iter().filter_map(|id| StoreName::from_id(id).ok()).collect();
    let pull = s.variant("pubsub", is(SourceKind::Pull), |s| PullSettings {
        subscription: s.required("subscription", subscription(), "The subscription."),
        credential: s.with_default(
            "credential",
            credential_name(),
            "google",
            "The entry of `[credentials]` to pull with.",
        ),
        endpoint: s.optional("endpoint", &service_url(), "Where Pub/Sub is, when not at Google's public address."),
    });
    let push = s.variant("pubsub-push", is(SourceKind::Push), |s| PushSettings {
        subscription: s.required("subscription", subscription(), "The subscription."),
        sender: push_sender(s),
    });
    let grid = s.variant("event-grid", is(SourceKind::EventGrid), grid_sender);
    let settings = EventSettings {
        stores: told,
        source: match kind {
            Some(SourceKind::Push) => SourceSettings::Push(push),
            Some(SourceKind::EventGrid) => SourceSettings::EventGrid(grid),
            Some(SourceKind::Pull) | None => SourceSettings::Pull(pull),
        },
    };
    if let Some(kind) = kind {
        check_stores(s, &settings, stores, kind);
        check_way_in(s, &settings, credentials, web);
    }
    settings
}

fn push_sender(s: &mut Section<'_, '_>) -> SenderSettings {
    let audience = s.required("audience", audience(), "What the deliveries' tokens must have as `aud`, exactly.");
    let account = s.required("service_account", email(), "The service account whose tokens the deliveries bear.");
    let issuer = s.with_default("issuer", https_url(), GOOGLE, "Who issues the deliveries' tokens.");
    let demand = |claims, value: &str| Demand { claims, value: value.to_owned() };
    SenderSettings {
        issuers: vec![issued(issuer, audience, keys(s))],
        demands: vec![demand(&["email"], &account), demand(&["email_verified"], "true")],
    }
}

fn grid_sender(s: &mut Section<'_, '_>) -> SenderSettings {
    let audience = s.required("audience", audience(), "What the deliveries' tokens must have as `aud`, exactly.");
    let tenant = s.required("tenant", uuid(), "The tenant of the application that protects the webhook.");
    let application = s.with_default("application", uuid(), EVENT_GRID, "Who delivers; Event Grid's own application.");
    let role =
        s.with_default("role", role(), EVENT_GRID_ROLE, "The application role that the deliveries' tokens must hold.");
    let issuer = s.optional(
        "issuer",
        &https_url(),
        "Who issues the deliveries' tokens; the tenant, in both forms of Entra's tokens, without it.",
    );
    let issuers = issuer.map_or_else(
        || {
            vec![
                format!("https://sts.windows.net/{tenant}/"),
                format!("https://login.microsoftonline.com/{tenant}/v2.0"),
            ]
        },
        |issuer| vec![issuer],
    );
    let keys = keys(s);
    SenderSettings {
        issuers: issuers.into_iter().map(|url| issued(url, audience.clone(), keys.clone())).collect(),
        demands: vec![
            Demand { claims: &["tid"], value: tenant },
            Demand { claims: &["appid", "azp"], value: application },
            Demand { claims: &["roles"], value: role },
        ],
    }
}

/// Both clouds sign so, and publish new keys long before they use them.
fn issued(url: String, audience: String, keys: KeySource) -> IssuerSettings {
    IssuerSettings {
        name: String::new(),
        url,
        audiences: vec![audience],
        algorithms: vec![Algorithm::Rs256],
        keys,
        leeway: Duration::from_secs(30),
        maximum_lifetime: Duration::from_hours(25),
        id_claim: "sub".to_owned(),
        refresh_interval: Duration::from_mins(5),
        maximum_key_age: Duration::from_hours(24),
    }
}

fn check_stores(
    s: &mut Section<'_, '_>,
    settings: &EventSettings,
    stores: &BTreeMap<StoreName, StoreSettings>,
    kind: SourceKind,
) {
    for store in &settings.stores {
        let id = store.id();
        match (stores.get(store), kind) {
            (None, _) => s.refuse("stores", &format!("names \"{id}\", and there is no [stores.{id}]; add it")),
            (Some(StoreSettings::Azure(_)), SourceKind::EventGrid) => {}
            (Some(StoreSettings::Gcp(gcp)), SourceKind::Pull | SourceKind::Push) => {
                if gcp.project_number.is_none() {
                    let message = format!(
                        "names \"{id}\", whose project Google's events call by its number; write \
                                           project_number under [stores.{id}]"
                    );
                    s.refuse("stores", &message);
                }
            }
            (Some(_), _) => {
                let message = format!("names \"{id}\", which is not of the cloud that this source is of; remove it");
                s.refuse("stores", &message);
            }
        }
    }
}

fn check_way_in(s: &mut Section<'_, '_>, settings: &EventSettings, credentials: &Names, web: bool) {
    match &settings.source {
        SourceSettings::Pull(pull) => check_credential(s, "credential", &pull.credential, Cloud::Google, credentials),
        SourceSettings::Push(_) | SourceSettings::EventGrid(_) if !web => {
            s.refuse("kind", "delivers to the web port, which is off; write [listen] web, such as \":7444\"");
        }
        SourceSettings::Push(_) | SourceSettings::EventGrid(_) => {}
    }
}

fn source_name(name: &str) -> Result<String, String> {
    // Two more characters tell two issuers of one source apart.
    made_of(name, 60, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')?;
    if name.starts_with(|c: char| c.is_ascii_lowercase()) {
        Ok(name.to_owned())
    } else {
        Err("does not begin with a lower-case letter".to_owned())
    }
}

fn store() -> Kind<String> {
    text("the name of a store", "store", |id| StoreName::from_id(id).map(drop).map_err(|error| error.to_string()))
}

fn subscription() -> Kind<String> {
    let expects = "a subscription's full name, projects/PROJECT/subscriptions/NAME";
    text(expects, "subscription", |name| {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~' | '+' | '%' | ':');
        match *name.split('/').collect::<Vec<_>>() {
            ["projects", project, "subscriptions", id] => {
                made_of(project, 128, fits).and_then(|()| made_of(id, 255, fits))
            }
            _ => Err("is not a subscription's full name".to_owned()),
        }
    })
}

fn audience() -> Kind<String> {
    text("a text of 1 to 512 visible characters", "text", |text| made_of(text, 512, |c| c.is_ascii_graphic()))
}

fn email() -> Kind<String> {
    text("a service account's email address", "email", |email| {
        made_of(email, 254, |c| c.is_ascii_graphic())?;
        if email.contains('@') { Ok(()) } else { Err("has no @ in it".to_owned()) }
    })
}

fn uuid() -> Kind<String> {
    text("a UUID in lower case", "UUID", |id| {
        made_of(id, 36, |c| matches!(c, '0'..='9' | 'a'..='f' | '-'))?;
        let lengths = id.split('-').map(str::len).collect::<Vec<_>>();
        if lengths == [8, 4, 4, 4, 12] { Ok(()) } else { Err("is not a UUID".to_owned()) }
    })
}

fn role() -> Kind<String> {
    text("the name of a role", "text", |role| made_of(role, 120, |c| c.is_ascii_graphic()))
}
