//! `[state]`: what keeps leases and rotations.

use super::kind::{FileUse, Kind, count, duration, file, made_of, one_of, path, text};
use super::reader::Reader;
use super::section::Section;
use super::url::service_url;
use crate::state::{EmbeddedSettings, EtcdSettings, Settings};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Backend {
    Embedded,
    Etcd,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Settings {
    reader.section("state", "Where leases and rotations are kept, so that they outlive the process.", read_one)
}

fn read_one(s: &mut Section<'_, '_>) -> Settings {
    let kinds = [("embedded", Backend::Embedded), ("etcd", Backend::Etcd)];
    let kind = s.with_default(
        "kind",
        one_of(kinds),
        "embedded",
        "A file of the broker's own, for one replica, or etcd, for many.",
    );
    let embedded = s.variant("embedded", Some(kind == Backend::Embedded), |s| EmbeddedSettings {
        file: s.with_default(
            "file",
            path(),
            "state.redb",
            "The file; made on first start where it is missing. A second one beside it, `….mark`, notices when an \
             old copy is put back: back up and restore the first without the second.",
        ),
        history_age: s.with_default(
            "history_age",
            duration("1m", "8760h"),
            "24h",
            "How long after a change a watch can begin there.",
        ),
        history_changes: s.with_default(
            "history_changes",
            count(1000..=100_000_000),
            "200000",
            "How many changes are kept for that at most.",
        ),
    });
    let etcd = s.variant("etcd", Some(kind == Backend::Etcd), |s| EtcdSettings {
        endpoints: s.list("endpoints", &service_url(), &[], "The members' URLs for clients."),
        prefix: s.with_default("prefix", prefix(), "keyferry", "What the broker's keys begin with."),
        ca: s.optional("ca", &file(FileUse::Read), "CAs (PEM) of the members' HTTPS, instead of the system's."),
        certificate: s.optional("certificate", &file(FileUse::Read), "The broker's client certificate (PEM) for etcd."),
        key: s.optional("key", &file(FileUse::ReadPrivately), "Its private key (PEM)."),
        user: s.optional("user", &user(), "The user to log in as, where etcd wants one."),
        password_file: s.optional("password_file", &file(FileUse::ReadPrivately), "Holds that user's password."),
        timeout: s.with_default(
            "timeout",
            duration("500ms", "1m"),
            "3s",
            "How long the members together may take to answer.",
        ),
        session_ttl: s.with_default(
            "session_ttl",
            duration("3s", "1m"),
            "5s",
            "How long a replica that fell silent counts as alive, and its leadership as taken.",
        ),
    });
    if kind == Backend::Embedded {
        return Settings::Embedded(embedded);
    }
    for (key, partner) in
        [("certificate", "key"), ("key", "certificate"), ("user", "password_file"), ("password_file", "user")]
    {
        if s.is_given(key) && !s.is_given(partner) {
            s.refuse(key, &format!("is given without {partner}, and they work only together"));
        }
    }
    Settings::Etcd(etcd)
}

fn prefix() -> Kind<String> {
    text("1 to 128 letters, digits, hyphens, dots, underscores or slashes", "prefix", |prefix| {
        made_of(prefix, 128, |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '/'))
    })
}

fn user() -> Kind<String> {
    text("the name of an etcd user", "name", |name| made_of(name, 256, |c| c.is_ascii_graphic()))
}
