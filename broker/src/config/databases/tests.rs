#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use crate::config::reference::SMALLEST;
use crate::config::{Config, Problems};
use crate::databases::{CockroachDatabase, DatabaseSettings, LoginSettings, PostgresDatabase};

const POSTGRES: &str = r#"
[databases.shop]
kind = "postgres"
host = "db.example.com"
database = "shop"
ca = "db-ca.pem"
"#;

const COCKROACH: &str = r#"
[databases.orders]
kind = "cockroach"
host = "crdb.example.com"
database = "orders"
ca = "crdb-ca.pem"
"#;

const CLIENT_CA: &str = r#"
client_ca_certificate = "stores/main/secrets/db-ca-certificate"
client_ca_key = "stores/main/secrets/db-ca-key"
"#;

const ISSUER: &str = r#"
[listen]
web = ":7444"

[issuer]
url = "https://keyferry.example.com"
signing_key = "stores/main/secrets/issuer"
"#;

fn parse(parts: &[&str]) -> Result<Config, Problems> {
    let text = format!("{SMALLEST}{}", parts.concat());
    Config::parse(&text, Path::new("keyferry.toml"), [], "node-1")
}

fn report(parts: &[&str]) -> String {
    parse(parts).unwrap_err().to_string()
}

fn postgres(parts: &[&str]) -> PostgresDatabase {
    let (_, settings) = parse(parts).unwrap().databases.pop_first().unwrap();
    let DatabaseSettings::Postgres(settings) = settings else { panic!("{settings:?}") };
    settings
}

fn cockroach(parts: &[&str]) -> CockroachDatabase {
    let (_, settings) = parse(parts).unwrap().databases.pop_first().unwrap();
    let DatabaseSettings::Cockroach(settings) = settings else { panic!("{settings:?}") };
    settings
}

#[test]
fn roles_of_postgres_are_users_of_leases_unless_they_say_otherwise() {
    let login = "user = \"keyferry\"\npassword_secret = \"stores/main/secrets/login\"\n";
    let roles = "[databases.shop.roles.reader]\ngroups = [\"readers\"]\n\
                 [databases.shop.roles.app]\ncredential = \"certificate\"\nuser = \"app\"\n";
    let settings = postgres(&[POSTGRES, login, CLIENT_CA, roles]);
    let users = settings.users.unwrap();
    assert_eq!((users.port, users.user.as_str()), (5432, "keyferry"));
    assert!(matches!(users.login, LoginSettings::Password(secret) if secret.id() == "login"));
    assert_eq!(users.roles.keys().collect::<Vec<_>>(), ["reader"]);
    let certificates = settings.certificates.unwrap();
    assert_eq!(certificates.roles["app"].user, "app");
    assert_eq!(certificates.authority.key.id(), "db-ca-key");
}

#[test]
fn a_database_of_mapped_users_needs_no_login_of_the_brokers_own() {
    let role = "[databases.shop.roles.app]\ncredential = \"certificate\"\nuser = \"app\"\n";
    let settings = postgres(&[POSTGRES, CLIENT_CA, role]);
    assert_eq!((settings.users, settings.certificates.map(|found| found.roles.len())), (None, Some(1)));
    let report = report(&[POSTGRES, "[databases.shop.roles.reader]\ngroups = [\"readers\"]\n"]);
    assert!(report.contains("[databases.shop] user: is missing; write the broker's own login"), "{report}");
}

#[test]
fn roles_of_cockroach_are_tokens_unless_they_say_otherwise() {
    let audience = "audience = \"orders-cluster\"\n";
    let roles = "[databases.orders.roles.app]\nuser = \"app\"\n\
                 [databases.orders.roles.batch]\ncredential = \"certificate\"\nuser = \"batch.1\"\n";
    let settings = cockroach(&[COCKROACH, audience, CLIENT_CA, roles, ISSUER]);
    let tokens = settings.tokens.unwrap();
    assert_eq!((tokens.audience.as_str(), tokens.server.port), ("orders-cluster", 26257));
    assert_eq!(tokens.roles["app"].user, "app");
    assert_eq!(settings.certificates.unwrap().roles["batch"].user, "batch.1");
    let report = report(&[COCKROACH, "[databases.orders.roles.app]\nuser = \"app\"\n"]);
    assert!(report.contains("[databases.orders] audience: is missing"), "{report}");
}

#[test]
fn tokens_need_an_issuer_with_a_key_and_a_port() {
    let role = "audience = \"a\"\n[databases.orders.roles.app]\nuser = \"app\"\n";
    let cases = [
        ("", "[issuer]: is missing, and roles with credential = \"jwt\" need it"),
        ("[issuer]\nurl = \"https://a.example\"\n", "[issuer] signing_key: is missing"),
        ("[issuer]\nsigning_key = \"stores/main/secrets/k\"\n", "[issuer] url: is missing"),
        ("[issuer]\nurl = \"http://a.example\"\n", "[issuer] url: \"http://a.example\" does not begin with https://"),
        (
            "[issuer]\nurl = \"https://a.example\"\nsigning_key = \"stores/main/secrets/k\"\n",
            "[issuer] url: is reached on the web port, which is off",
        ),
    ];
    for (issuer, fault) in cases {
        let report = report(&[COCKROACH, role, issuer]);
        assert!(report.contains(fault), "{issuer}: {report}");
    }
}

#[test]
fn refuses_users_that_are_the_databases_own() {
    for user in ["root", "node", "admin", "public", "none", "pg_monitor", "crdb_internal_x", "App", "a b", "-a", "ä"] {
        let role = format!("audience = \"a\"\n[databases.orders.roles.app]\nuser = \"{user}\"\n");
        let report = report(&[COCKROACH, &role]);
        assert!(report.contains("[databases.orders.roles.app] user: is "), "{user}: {report}");
    }
    for user in ["pg_monitor", "public", "keyferry"] {
        let role = format!(
            "user = \"keyferry\"\npassword_secret = \"stores/main/secrets/login\"\n{CLIENT_CA}\
             [databases.shop.roles.app]\ncredential = \"certificate\"\nuser = \"{user}\"\n"
        );
        let report = report(&[POSTGRES, &role]);
        assert!(report.contains("user: is "), "{user}: {report}");
    }
}

#[test]
fn refuses_a_credential_that_the_kind_does_not_have_and_keys_of_another_credential() {
    let role = "audience = \"a\"\n[databases.orders.roles.app]\ncredential = \"password\"\ngroups = [\"x\"]\n";
    let report_of_credential = report(&[COCKROACH, role]);
    let advice = "credential: is not for this kind of database; write \"jwt\" or \"certificate\"";
    assert!(report_of_credential.contains(advice), "{report_of_credential}");
    let role = "audience = \"a\"\n[databases.orders.roles.app]\nuser = \"app\"\ngroups = [\"x\"]\n";
    let report_of_key = report(&[COCKROACH, role]);
    let advice = "groups: belongs to credential \"password\"; remove it, or change credential";
    assert!(report_of_key.contains(advice), "{report_of_key}");
    let report_of_kind = report(&[COCKROACH, "connections = 3\n"]);
    assert!(report_of_kind.contains("connections: belongs to kind \"postgres\""), "{report_of_kind}");
}

#[test]
fn certificates_need_a_ca_with_its_key() {
    let role = "[databases.shop.roles.app]\ncredential = \"certificate\"\nuser = \"app\"\n";
    let none = report(&[POSTGRES, role]);
    assert!(none.contains("[databases.shop] client_ca_certificate: is missing; for roles with"), "{none}");
    let half = report(&[POSTGRES, "client_ca_certificate = \"stores/main/secrets/ca\"\n", role]);
    assert!(half.contains("[databases.shop] client_ca_key: is missing; for roles with"), "{half}");
}

#[test]
fn the_guides_of_the_clouds_show_configuration_that_is_accepted() {
    for (guide, databases) in [("cloud-sql", 1), ("spanner", 1), ("azure-databases", 3)] {
        let page = std::fs::read_to_string(format!("../docs/{guide}.md")).unwrap();
        let config = parse(&shown(&page)).unwrap_or_else(|problems| panic!("docs/{guide}.md:\n{problems}"));
        assert_eq!(config.databases.len(), databases, "{guide}");
    }
}

#[test]
fn the_guide_to_rotation_shows_configuration_that_is_accepted() {
    let page = std::fs::read_to_string("../docs/rotation.md").unwrap();
    let users = "user = \"keyferry\"\ncertificate = \"db.pem\"\nkey = \"db.key\"\n[databases.shop.roles.app]\ngroups = [\"x\"]\n";
    let vault = "[stores.vault]\nkind = \"local\"\nfile = \"vault.redb\"\nkey_file = \"vault.key\"\n";
    let parts = [&[POSTGRES, users, vault][..], &shown(&page)].concat();
    let config = parse(&parts).unwrap_or_else(|problems| panic!("docs/rotation.md:\n{problems}"));
    assert_eq!(config.rotations.len(), 3);
    let own =
        "[rotations.issuer]\ntargets = [\"stores/main/secrets/issuer\"]\nkind = \"generate\"\nform = \"key-pair\"\n";
    let refusal = report(&[ISSUER, own]);
    assert!(refusal.contains("stores/main/secrets/issuer is a key that the broker signs with"), "{refusal}");
}

/// The blocks of configuration on a page.
fn shown(page: &str) -> Vec<&str> {
    page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn refuses_to_let_a_user_take_turns_in_two_rotations_or_beside_its_certificates() {
    let login = "user = \"keyferry\"\ncertificate = \"c.pem\"\nkey = \"c.key\"\n";
    let certified = "[databases.shop.roles.app]\ncredential = \"certificate\"\nuser = \"app\"\n";
    let rotation = |name: &str, users: &str| {
        format!(
            "[rotations.{name}]\ntargets = [\"stores/main/secrets/{name}\"]\nkind = \"postgres\"\n\
             database = \"shop\"\nusers = {users}\n"
        )
    };
    let (one, two) = (rotation("one", "[\"a\", \"b\"]"), rotation("two", "[\"c\", \"d\"]"));
    assert!(parse(&[POSTGRES, login, &one, &two]).is_ok());
    let lines = report(&[POSTGRES, login, &one, &rotation("two", "[\"c\", \"b\"]")]);
    assert!(lines.contains("[rotations.two] users: b is rotated by another rotation already"), "{lines}");
    let lines = report(&[POSTGRES, login, CLIENT_CA, certified, &rotation("one", "[\"a\", \"app\"]")]);
    assert!(lines.contains("[rotations.one] users: app logs in by certificates, too"), "{lines}");
}
