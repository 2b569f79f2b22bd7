//! Secret Manager's events, as the attributes of a Pub/Sub message. Its data is not looked at: it says less, later.

use std::collections::HashMap;
use std::sync::Arc;

use super::places::Places;
use super::told::{Told, time};
use crate::names::VersionId;
use crate::rotation::{Fact, Observation, Origin, VersionMark};
use crate::secrets::VersionState;

pub fn read(attributes: &HashMap<String, String>, places: &Places) -> Told {
    let get = |name: &str| attributes.get(name).map(String::as_str);
    let Some(kind) = get("eventType") else {
        return Told::Unreadable("the message has no eventType; the topic should have Secret Manager's messages only");
    };
    let Some(about) = About::of(kind) else { return Told::OfNoConcern };
    let Some(name) = get("secretId") else {
        return Told::Unreadable("the message has no secretId, which Secret Manager's have");
    };
    let secrets = places.google(name);
    if secrets.is_empty() {
        return Told::OfNoConcern;
    }
    let happened = get("timestamp").and_then(time);
    let fact = match about {
        About::Secret(fact) => fact,
        About::Version(fact) => match version(get("versionId"), name) {
            Some(id) => fact(id),
            None => return Told::Unreadable("the message's versionId is not one of its secretId"),
        },
        About::Addition => match version(get("versionId"), name) {
            // The message's time is another than the version's: with it, one version would seem to be two.
            Some(id) => Fact::VersionAdded(VersionMark { id, created: None, state: VersionState::Enabled }),
            None => return Told::Unreadable("the message's versionId is not one of its secretId"),
        },
    };
    Told::Fact(secrets, Observation { fact, origin: Origin::PubSub, happened })
}

enum About {
    Secret(Fact),
    Version(fn(Arc<str>) -> Fact),
    Addition,
}

impl About {
    /// Nothing for what changes nothing that is read: a secret that was created has no version yet, a reminder to rotate
    /// is for whoever rotates, a topic says once that it was configured.
    fn of(kind: &str) -> Option<Self> {
        Some(match kind {
            "SECRET_VERSION_ADD" => Self::Addition,
            "SECRET_VERSION_ENABLE" => Self::Version(Fact::VersionEnabled),
            // Until it is destroyed, a version on its way there is disabled.
            "SECRET_VERSION_DISABLE" | "SECRET_VERSION_DESTROY_SCHEDULED" => Self::Version(Fact::VersionDisabled),
            "SECRET_VERSION_DESTROY" => Self::Version(Fact::VersionDestroyed),
            "SECRET_UPDATE" => Self::Secret(Fact::SecretUpdated),
            "SECRET_DELETE" => Self::Secret(Fact::SecretDeleted),
            _ => return None,
        })
    }
}

fn version(name: Option<&str>, secret: &str) -> Option<Arc<str>> {
    let id = name?.strip_prefix(secret)?.strip_prefix("/versions/")?;
    VersionId::exact(id).ok().map(|id| id.as_str().into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::places::tests::places;
    use super::*;
    use crate::names::SecretName;

    const SECRET: &str = "projects/123456789012/secrets/db";

    fn told(attributes: &[(&str, &str)]) -> Told {
        let attributes = attributes.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        read(&attributes, &places())
    }

    fn event(kind: &str, version: &str) -> Told {
        let version = format!("{SECRET}/versions/{version}");
        told(&[
            ("eventType", kind),
            ("secretId", SECRET),
            ("versionId", &version),
            ("timestamp", "2026-11-20T10:00:00.5Z"),
            ("dataFormat", "JSON_API_V1"),
        ])
    }

    fn fact(told: Told) -> Fact {
        let Told::Fact(secrets, observation) = told else { panic!("{told:?}") };
        assert_eq!(secrets, [SecretName::parse("stores/gcp/secrets/db").unwrap()]);
        assert_eq!(observation.origin, Origin::PubSub);
        observation.fact
    }

    #[test]
    fn reads_every_event_that_concerns_readers() {
        let mark = VersionMark { id: "7".into(), created: None, state: VersionState::Enabled };
        assert_eq!(fact(event("SECRET_VERSION_ADD", "7")), Fact::VersionAdded(mark));
        assert_eq!(fact(event("SECRET_VERSION_ENABLE", "7")), Fact::VersionEnabled("7".into()));
        assert_eq!(fact(event("SECRET_VERSION_DISABLE", "7")), Fact::VersionDisabled("7".into()));
        assert_eq!(fact(event("SECRET_VERSION_DESTROY_SCHEDULED", "7")), Fact::VersionDisabled("7".into()));
        assert_eq!(fact(event("SECRET_VERSION_DESTROY", "7")), Fact::VersionDestroyed("7".into()));
        for (kind, expected) in [("SECRET_UPDATE", Fact::SecretUpdated), ("SECRET_DELETE", Fact::SecretDeleted)] {
            assert_eq!(fact(told(&[("eventType", kind), ("secretId", SECRET)])), expected);
        }
    }

    #[test]
    fn a_project_is_known_by_its_id_and_by_its_number_and_no_other_is() {
        let of = |secret| told(&[("eventType", "SECRET_DELETE"), ("secretId", secret)]);
        assert_eq!(fact(of("projects/shop-prod/secrets/db")), Fact::SecretDeleted);
        for foreign in [
            "projects/999/secrets/db",
            "projects/shop-test/secrets/db",
            "projects/shop-prod/locations/europe-west3/secrets/db",
            "projects/shop-prod/secrets/d b",
            "projects/shop-prod/secrets/db/versions/1",
            "stores/gcp/secrets/db",
            "",
        ] {
            assert_eq!(of(foreign), Told::OfNoConcern, "{foreign}");
        }
    }

    #[test]
    fn what_is_no_event_of_a_secret_changes_nothing() {
        for kind in ["TOPIC_CONFIGURED", "SECRET_ROTATE", "SECRET_CREATE", "SOMETHING_NEW", ""] {
            assert_eq!(told(&[("eventType", kind)]), Told::OfNoConcern, "{kind}");
        }
        for unreadable in [told(&[]), told(&[("eventType", "SECRET_DELETE")])] {
            assert!(matches!(unreadable, Told::Unreadable(_)));
        }
        for version in ["", "-1", "7/..", "7/versions/8", "%37"] {
            assert!(matches!(event("SECRET_VERSION_ADD", version), Told::Unreadable(_)), "{version}");
        }
    }

    #[test]
    fn an_event_without_a_readable_time_still_counts() {
        let version = format!("{SECRET}/versions/7");
        for time in ["", "yesterday", "1795168800", "-999999-01-01T00:00:00Z"] {
            let told = told(&[
                ("eventType", "SECRET_VERSION_DISABLE"),
                ("secretId", SECRET),
                ("versionId", &version),
                ("timestamp", time),
            ]);
            let Told::Fact(_, observation) = told else { panic!("{told:?}") };
            assert_eq!(observation.happened, None, "{time}");
        }
    }
}
