//! Users in a real PostgreSQL: what they may, that they end, and which link is blamed when one breaks.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use keyferry_broker::clock::{Clock as _, SystemClock, Timestamp};
use keyferry_broker::databases::postgres::{Login, Postgres};
use keyferry_broker::databases::{
    LoginSettings, NewUser, PostgresSettings, RoleSettings, Tag, Tagged, UserName, Users as _,
};
use keyferry_broker::error::{Failure, Reason};
use keyferry_broker::names::{DatabaseName, LeaseName};
use keyferry_broker::secrets::SecretBytes;
use keyferry_tests::pki::Ca;
use keyferry_tests::postgres::Cluster;
use keyferry_tests::proxy::{Mood, Proxy};
use tokio::net::TcpListener;

use crate::reload::eventually;

fn settings(cluster: &Cluster) -> PostgresSettings {
    PostgresSettings {
        host: "127.0.0.1".into(),
        port: cluster.port(),
        database: "shop".into(),
        ca: cluster.path().join("ca.pem"),
        user: "keyferry".into(),
        login: LoginSettings::Certificate {
            certificate: cluster.path().join("broker.pem"),
            key: cluster.path().join("broker.key"),
        },
        connections: 4,
        timeout: Duration::from_secs(5),
        roles: [("reader".to_owned(), reader())].into(),
    }
}

fn reader() -> RoleSettings {
    RoleSettings {
        description: String::new(),
        groups: vec!["orders_read".into()],
        default_ttl: Duration::from_secs(600),
        max_ttl: Duration::from_secs(600),
        max_lifetime: Duration::from_secs(600),
        connection_limit: 5,
        search_path: Vec::new(),
        heir: None,
    }
}

fn open(settings: PostgresSettings) -> Postgres {
    let LoginSettings::Certificate { certificate, key } = settings.login.clone() else { panic!("{settings:?}") };
    let name = DatabaseName::from_id("shop").unwrap();
    Postgres::open(name, settings, Login::Certificate { certificate, key }, Arc::new(SystemClock)).unwrap()
}

async fn listed(postgres: &Postgres) -> Vec<Tagged> {
    let mut users = Vec::new();
    postgres.list(&mut |user| users.push(user)).await.unwrap();
    users
}

const PASSWORD: &str = "a password of sixteen or more";

fn new_user(groups: &[&str], caller: &str) -> NewUser {
    NewUser {
        name: UserName::generate("reader").unwrap(),
        password: SecretBytes::new(PASSWORD.into()),
        until: SystemClock.now().plus(Duration::from_secs(600)),
        groups: groups.iter().map(|&group| group.to_owned()).collect(),
        connection_limit: 5,
        search_path: vec!["public".into(), "Odd \" schema".into()],
        tag: Tag {
            deployment: "d1".into(),
            lease: LeaseName::from_id("0a1b").unwrap(),
            role: "reader".into(),
            caller: caller.into(),
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_may_what_its_group_may_and_is_gone_with_its_sessions_when_removed() {
    let cluster = Cluster::start(&Ca::new("test CA"));
    let postgres = open(settings(&cluster));
    let user = new_user(&["orders_read"], "x509/spiffe://test.keyferry/client");
    let name = user.name.as_str();
    postgres.create(&user).await.unwrap();

    assert_eq!(cluster.query(name, PASSWORD, "shop", "SELECT count(*) FROM orders").unwrap(), "2");
    for forbidden in ["SELECT * FROM ledger", "INSERT INTO orders VALUES (3)", "CREATE ROLE other", "DROP TABLE orders"]
    {
        assert!(cluster.query(name, PASSWORD, "shop", forbidden).is_err(), "{forbidden}");
    }
    assert!(cluster.query(name, "wrong", "shop", "SELECT 1").is_err());
    assert!(!cluster.log_text().contains(PASSWORD), "the server's log has the password");
    assert_eq!(
        listed(&postgres).await,
        [keyferry_broker::databases::Tagged { name: user.name.clone(), tag: user.tag.clone() }]
    );

    let mut session = cluster.hold_session(name, PASSWORD);
    postgres.remove(&user.name, "orders_read").await.unwrap();
    assert!(!session.wait().unwrap().success(), "its session was ended");
    assert!(cluster.query(name, PASSWORD, "shop", "SELECT 1").unwrap_err().contains("authentication failed"));
    assert!(cluster.users().is_empty());
    postgres.remove(&user.name, "orders_read").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_user_owned_in_any_database_goes_to_its_heir() {
    let cluster = Cluster::start(&Ca::new("test CA"));
    let postgres = open(settings(&cluster));
    let user = new_user(&["orders_write"], "someone");
    postgres.create(&user).await.unwrap();
    for database in ["shop", "annex"] {
        let sql = "CREATE TABLE made (id int); GRANT SELECT ON made TO orders_read";
        cluster.query(user.name.as_str(), PASSWORD, database, sql).unwrap();
    }
    postgres.remove(&user.name, "orders_write").await.unwrap();
    assert!(cluster.users().is_empty());
    for database in ["shop", "annex"] {
        assert_eq!(
            cluster.admin(database, "SELECT tableowner FROM pg_tables WHERE tablename = 'made'"),
            "orders_write"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_caller_s_name_becomes_sql() {
    let cluster = Cluster::start(&Ca::new("test CA"));
    let postgres = open(settings(&cluster));
    for caller in [
        "'; DROP TABLE orders; --",
        "\\'; DROP TABLE orders; --",
        "$$; DROP TABLE orders; $$",
        "E'\\x27'",
        "line\nbreak \r\t\u{1} \u{feff} \u{10ffff}",
        "nul\0; DROP TABLE orders",
        "%s {} \"quoted\"",
    ] {
        let user = new_user(&["orders_read"], caller);
        postgres.create(&user).await.unwrap();
        let tag = listed(&postgres).await.remove(0).tag;
        assert_eq!(tag.caller, caller.replace('\0', "\u{fffd}"));
        postgres.remove(&user.name, "orders_read\"; DROP TABLE orders; --").await.unwrap();
    }
    let mut user = new_user(&["orders_read\"; DROP TABLE orders; --"], "x");
    assert_eq!(postgres.create(&user).await.unwrap_err().reason(), Reason::DatabaseLoginRefused);
    user.groups = vec!["orders_read".into()];
    user.search_path = vec!["\"; DROP TABLE orders; --".into()];
    postgres.create(&user).await.unwrap();
    assert_eq!(cluster.admin("shop", "SELECT count(*) FROM orders"), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_that_fails_leaves_nothing() {
    let cluster = Cluster::start(&Ca::new("test CA"));
    let postgres = open(settings(&cluster));
    let user = new_user(&["orders_read", "no_such_group"], "x");
    let failure = postgres.create(&user).await.unwrap_err();
    assert_eq!(failure.reason(), Reason::DatabaseLoginRefused);
    assert!(failure.message().contains("groups exist"), "{failure}");
    assert!(cluster.users().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_that_are_asked_for_at_once_share_transactions_and_each_is_there() {
    let cluster = Cluster::start(&Ca::new("test CA"));
    let postgres = open(PostgresSettings { connections: 2, ..settings(&cluster) });
    let users: Vec<_> = (0..20).map(|_| new_user(&["orders_read"], "x")).collect();
    for made in join_all(users.iter().map(|user| postgres.create(user))).await {
        made.unwrap();
    }
    let mut names: Vec<_> = users.iter().map(|user| user.name.as_str().to_owned()).collect();
    names.sort_unstable();
    assert_eq!(cluster.users(), names);
    let transactions = "SELECT count(DISTINCT xmin::text) FROM pg_authid WHERE rolname ^@ 'kf_'";
    assert_eq!(cluster.admin("shop", transactions), "2", "the first, and all that came while it was made");
    for user in [&users[0], &users[19]] {
        assert_eq!(cluster.query(user.name.as_str(), PASSWORD, "shop", "SELECT count(*) FROM orders").unwrap(), "2");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_cannot_be_made_keeps_no_other_from_being_made_with_it() {
    let cluster = Cluster::start(&Ca::new("test CA"));
    let postgres = open(PostgresSettings { connections: 2, ..settings(&cluster) });
    let users: Vec<_> =
        (0..6).map(|number| new_user(if number == 3 { &["no_such_group"] } else { &["orders_read"] }, "x")).collect();
    let made = join_all(users.iter().map(|user| postgres.create(user))).await;
    let reasons: Vec<_> = made.iter().map(|made| made.as_ref().err().map(Failure::reason)).collect();
    let refused = Some(Reason::DatabaseLoginRefused);
    assert_eq!(reasons, [None, None, None, refused, None, None]);
    assert_eq!(cluster.users().len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_reached_is_tried_once_for_all_who_wait() {
    let cluster = Cluster::start(&Ca::new("test CA"));
    let hanging_up = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let postgres =
        open(PostgresSettings { port: hanging_up.local_addr().unwrap().port(), connections: 2, ..settings(&cluster) });
    let users: Vec<_> = (0..200).map(|_| new_user(&["orders_read"], "x")).collect();
    let mut tries = 0;
    let all = join_all(users.iter().map(|user| postgres.create(user)));
    let mut all = pin!(all);
    let made = loop {
        tokio::select! {
            made = &mut all => break made,
            Ok(_) = hanging_up.accept() => tries += 1,
        }
    };
    assert!(made.iter().all(|made| made.as_ref().is_err_and(|f| f.reason() == Reason::DatabaseUnavailable)));
    assert_eq!(tries, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_met_once_by_all_who_wait_though_one_of_them_is_refused() {
    let cluster = Cluster::start(&Ca::new("test CA"));
    let postgres = open(PostgresSettings { timeout: Duration::from_secs(1), connections: 2, ..settings(&cluster) });
    let _lock = cluster.lock("pg_auth_members");
    // The first is made alone; the others, who came meanwhile, together and then one by one.
    let groups = |number| if number < 2 { "no_such_group" } else { "orders_read" };
    let users: Vec<_> = (0..6).map(|number| new_user(&[groups(number)], "x")).collect();
    let made = join_all(users.iter().map(|user| postgres.create(user))).await;
    let reasons: Vec<_> = made.into_iter().map(|made| made.unwrap_err().reason()).collect();
    let (refused, out) = (Reason::DatabaseLoginRefused, Reason::DatabaseUnavailable);
    // Since 16 the maker of any user becomes a member of it, and so meets the lock before the group is looked for.
    let version: u32 = cluster.admin("postgres", "SHOW server_version_num").parse().unwrap();
    let first = if version < 160_000 { refused } else { out };
    assert_eq!(reasons, [first, first, out, out, out, out]);
    assert_eq!(cluster.log_text().matches("canceling statement").count(), 1);
}

/// A user whose creation waits in the server when the connection is cut.
async fn begin_and_lose(cluster: &Cluster) -> (Postgres, Proxy, NewUser) {
    let proxy = Proxy::start("127.0.0.1", cluster.port()).await;
    let patient = Duration::from_secs(600);
    let postgres = open(PostgresSettings { port: proxy.port(), timeout: patient, ..settings(cluster) });
    let user = new_user(&["orders_read"], "x");
    let cut = async {
        eventually("the server is at it", async || creations_that_wait(cluster) == 1).await;
        proxy.mood().send_replace(Mood::Cutting);
    };
    let (made, ()) = join(postgres.create(&user), cut).await;
    assert_eq!(made.unwrap_err().reason(), Reason::DatabaseUnavailable);
    proxy.mood().send_replace(Mood::Passing);
    (postgres, proxy, user)
}

fn creations_that_wait(cluster: &Cluster) -> usize {
    let count = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'keyferry' AND wait_event_type = 'Lock'";
    cluster.admin("postgres", count).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_was_removed_is_not_made_afterwards_by_what_was_under_way() {
    let cluster = Cluster::start(&Ca::new("test CA"));
    let lock = cluster.lock("pg_auth_members");
    let (postgres, _proxy, user) = begin_and_lose(&cluster).await;
    postgres.remove(&user.name, "orders_read").await.unwrap();
    assert_eq!(creations_that_wait(&cluster), 0);
    drop(lock);
    assert!(cluster.users().is_empty());
    postgres.create(&user).await.unwrap();
    assert_eq!(cluster.users(), [user.name.as_str()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_broker_had_begun_ends_soon_after_its_connection() {
    let cluster = Cluster::start(&Ca::new("test CA"));
    let lock = cluster.lock("pg_auth_members");
    begin_and_lose(&cluster).await;
    eventually("the server notices", async || creations_that_wait(&cluster) == 0).await;
    drop(lock);
    assert!(cluster.users().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_link_that_broke_is_named() {
    let ca = Ca::new("test CA");
    let mut cluster = Cluster::start(&ca);
    let good = settings(&cluster);
    let reason = async |settings: PostgresSettings| {
        let failure = open(settings).probe().await.unwrap_err();
        assert!(failure.message().contains("databases/shop"), "{failure}");
        failure.reason()
    };
    open(good.clone()).probe().await.unwrap();

    let other = Ca::new("another CA");
    std::fs::write(cluster.path().join("other.pem"), other.pem()).unwrap();
    let stranger = PostgresSettings { ca: cluster.path().join("other.pem"), ..good.clone() };
    assert_eq!(reason(stranger).await, Reason::DatabaseTls);
    // The certificate names localhost and 127.0.0.1.
    let proxy = Proxy::start("127.0.0.2", cluster.port()).await;
    let misnamed = PostgresSettings { host: "127.0.0.2".into(), port: proxy.port(), ..good.clone() };
    assert_eq!(reason(misnamed).await, Reason::DatabaseTls);
    let absent = PostgresSettings { host: "127.0.0.2".into(), ..good.clone() };
    assert_eq!(reason(absent).await, Reason::DatabaseUnavailable, "nothing listens there");
    let nobody = PostgresSettings { user: "nobody".into(), ..good.clone() };
    assert_eq!(reason(nobody).await, Reason::DatabaseLoginRefused);
    let nowhere = PostgresSettings { database: "nowhere".into(), ..good.clone() };
    assert_eq!(reason(nowhere).await, Reason::DatabaseLoginRefused);
    other.issue(|_| ()).write(cluster.path(), "forged");
    let forged = LoginSettings::Certificate {
        certificate: cluster.path().join("forged.pem"),
        key: cluster.path().join("forged.key"),
    };
    assert_eq!(reason(PostgresSettings { login: forged, ..good.clone() }).await, Reason::DatabaseTls);

    cluster.admin("postgres", "ALTER ROLE keyferry CONNECTION LIMIT 0");
    assert_eq!(reason(good.clone()).await, Reason::DatabaseExhausted);
    cluster.admin("postgres", "ALTER ROLE keyferry CONNECTION LIMIT -1");
    open(good.clone()).probe().await.unwrap();

    cluster.stop();
    assert_eq!(reason(good).await, Reason::DatabaseUnavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_s_password_ends_by_itself_and_later_when_extended() {
    let cluster = Cluster::start(&Ca::new("test CA"));
    let postgres = open(settings(&cluster));
    let mut user = new_user(&["orders_read"], "x");
    user.until = Timestamp::from_secs(SystemClock.now().as_secs() - 1);
    postgres.create(&user).await.unwrap();
    let try_login = || cluster.query(user.name.as_str(), PASSWORD, "shop", "SELECT 1");
    assert!(try_login().is_err());
    postgres.extend(&user.name, SystemClock.now().plus(Duration::from_secs(60))).await.unwrap();
    assert_eq!(try_login().unwrap(), "1");
    let another = "another password, as long";
    postgres.set_password(&user.name, &SecretBytes::new(another.into())).await.unwrap();
    assert!(try_login().is_err());
    assert_eq!(cluster.query(user.name.as_str(), another, "shop", "SELECT 1").unwrap(), "1");
}
