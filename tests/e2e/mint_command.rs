//! `keyferry mint`, `roles` and `leases` before a real PostgreSQL, and psql with what was minted.

use std::sync::Arc;

use keyferry_broker::clock::SystemClock;
use keyferry_tests::broker::TestBroker;
use keyferry_tests::command::{Caller, Ran, assert_documented};
use keyferry_tests::postgres::Cluster;

struct Stage {
    _runtime: tokio::runtime::Runtime,
    cluster: Cluster,
    _broker: TestBroker,
    operator: Caller,
    client: Caller,
}

fn stage() -> Stage {
    let ca = keyferry_tests::pki::Ca::new("test CA");
    let cluster = Cluster::start(&ca);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let broker = runtime.block_on(TestBroker::with(&cluster.configuration(), Arc::new(SystemClock)));
    let operator = Caller::of(&broker, "operator", &broker.operator);
    let client = Caller::of(&broker, "client", &broker.client);
    Stage { _runtime: runtime, cluster, _broker: broker, operator, client }
}

#[test]
fn psql_runs_as_the_minted_user_and_the_user_is_gone_when_psql_is() {
    let stage = stage();
    let sql = "SELECT count(*), current_user, current_setting('is_superuser') FROM orders";
    let psql =
        |more: &[&str]| stage.operator.run(&[&["mint", "shop/reader", "--psql", "--", "-X", "-At"], more].concat());
    let said = psql(&["-c", sql]).done();
    assert!(said.starts_with("2|kf_") && said.ends_with("|off\n"), "{said}");
    until_no_user_is_left(&stage);
    let revoked = || stage.operator.run(&["leases", "list", "--state", "revoked", "--json"]).json();
    while revoked().is_empty() {}
    assert_eq!(revoked()[0]["revoke_cause"], "owner");

    let refused = psql(&["-v", "ON_ERROR_STOP=1", "-c", "SELECT * FROM ledger"]);
    assert!(refused.code == 1 && refused.stderr.contains("permission denied"), "{refused:?}");
    until_no_user_is_left(&stage);

    // What ps shows, and what psql was given, from inside.
    let shell = r"\! tr '\0' '\n' < /proc/$PPID/cmdline; stat -c %a $PGPASSFILE; cut -d: -f1-4 $PGPASSFILE; test -z $PGPASSWORD && echo nothing";
    let seen = psql(&["-c", shell]).done();
    assert!(seen.contains("\n600\n127.0.0.1:") && seen.contains(":*:kf_reader_"), "for this server and user: {seen}");
    assert!(seen.ends_with("\nnothing\n"), "{seen}");
    until_no_user_is_left(&stage);
    let mut absent = stage.operator.command(&["mint", "shop/reader", "--psql"]);
    let absent: keyferry_tests::command::Ran = absent.env("PATH", "/absent").output().unwrap().into();
    absent.failed(127, "cannot run psql");
    until_no_user_is_left(&stage);
}

/// Revoking is the broker's to finish.
fn until_no_user_is_left(stage: &Stage) {
    while !stage.cluster.users().is_empty() {
        std::thread::yield_now();
    }
}

#[test]
fn a_credential_that_could_not_be_handed_over_is_revoked() {
    let stage = stage();
    for more in [[].as_slice(), &["--json"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = stage.operator.command(&[&["mint", "shop/reader"], more].concat());
        let ran: Ran = command.stdout(full).output().unwrap().into();
        ran.failed(1, "the answer is lost");
        until_no_user_is_left(&stage);
    }
}

#[test]
fn what_is_minted_can_be_looked_at_renewed_and_revoked() {
    let stage = stage();
    let roles = stage.operator.run(&["roles", "--json"]).json();
    let names: Vec<_> = roles.iter().map(|role| role["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["databases/shop/roles/reader", "databases/shop/roles/writer"]);
    assert!(stage.operator.run(&["roles", "shop"]).done().contains("  reads orders\n"));

    let minted = &stage.operator.run(&["mint", "shop/reader", "--ttl", "5m", "--json"]).json()[0];
    assert_documented("`roles`", &roles[0]);
    assert_documented("`mint`", minted);
    assert_documented("`leases`", &minted["lease"]);
    let (user, lease) = (minted["user"].as_str().unwrap(), minted["lease"]["name"].as_str().unwrap());
    let password = minted["credential"]["password"].as_str().unwrap();
    assert_eq!(stage.cluster.query(user, password, "shop", "SELECT 1").unwrap(), "1");
    let shown = stage.operator.run(&["leases", "show", lease]).done();
    assert!(shown.contains("active\n") && shown.contains("ends           in 4m5"), "{shown}");
    let renewed = stage.operator.run(&["leases", "renew", lease, "--ttl", "30m"]).done();
    assert!(renewed.contains("ends           in 29m5"), "{renewed}");
    let (code, on_terminal) = stage.operator.run_on_terminal(&["mint", "shop/reader"], "");
    assert!(code == 2 && on_terminal.contains("--psql") && !on_terminal.contains("password "), "{on_terminal}");

    let id = lease.strip_prefix("leases/").unwrap();
    stage.client.run(&["leases", "revoke", id]).failed(5, "(LEASE_NOT_FOUND)");
    stage.operator.run(&["leases", "revoke", id, "--why", "leaked"]).done();
    assert!(stage.cluster.query(user, password, "shop", "SELECT 1").is_err());
    stage.operator.run(&["mint", "shop/reader"]).done();
    let dry = stage.operator.run(&["leases", "revoke", "--role", "shop/reader", "--dry-run", "--json"]).json();
    assert_eq!((&dry[0]["matched_count"], &dry[0]["dry_run"]), (&1.into(), &true.into()));
    stage.operator.run(&["leases", "revoke", "--role", "shop/reader"]).done();
    until_no_user_is_left(&stage);
    assert_eq!(stage.operator.run(&["leases", "list", "--state", "active"]).done(), "none\n");
    assert!(stage.operator.run(&["leases", "show", id]).done().contains("revoked for    owner\n"));
    stage.operator.run(&["leases", "show", "nonsense"]).failed(5, "there is no leases/nonsense");
    stage.client.run(&["mint", "shop/nobody"]).failed(3, "(ACCESS_DENIED)");
    stage.operator.run(&["mint", "shop/nobody"]).failed(5, "(DATABASE_ROLE_NOT_FOUND)");
}
