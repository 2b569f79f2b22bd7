//! A real PostgreSQL of its own: throwaway data, TLS with the test CA, certificates and passwords as logins.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rcgen::DnType;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::pki::{Ca, restrict};

/// Serves until dropped. The broker's login is `keyferry`, by password or by certificate; the group `orders_read` may
/// read the table `orders`, and `orders_write` may make tables too. The users `app`, who reads orders, and `batch` log in
/// with certificates of the same CA.
#[derive(Debug)]
pub struct Cluster {
    directory: TempDir,
    port: u16,
    server: Option<Child>,
    settings: &'static [&'static str],
}

/// What suites need to look at, and what they need not wait for.
const OBSERVED: &[&str] = &["max_connections=40", "fsync=off", "log_statement=all"];
/// As in production.
const DURABLE: &[&str] = &["max_connections=40"];

pub const PASSWORD: &str = "the broker's own";

const SETUP: &str = r"
    CREATE ROLE keyferry LOGIN CREATEROLE PASSWORD 'the broker''s own';
    GRANT pg_signal_backend TO keyferry;
    CREATE ROLE orders_read NOLOGIN;
    CREATE ROLE orders_write NOLOGIN;
    GRANT orders_read, orders_write TO keyferry WITH ADMIN OPTION;
    CREATE DATABASE shop;
    CREATE DATABASE annex;
    \c annex
    GRANT CREATE, USAGE ON SCHEMA public TO orders_write;
    \c shop
    CREATE TABLE orders (id int);
    INSERT INTO orders VALUES (1), (2);
    CREATE TABLE ledger (id int);
    GRANT SELECT ON orders TO orders_read;
    CREATE ROLE app LOGIN IN ROLE orders_read;
    CREATE ROLE batch LOGIN;
    GRANT CREATE, USAGE ON SCHEMA public TO orders_write;
";

const HBA: &str = "
local   all all trust
hostssl all keyferry 127.0.0.1/32 cert map=broker
hostssl all app,batch 127.0.0.1/32 cert
hostssl all all 127.0.0.1/32 scram-sha-256
";

const HBA_PASSWORDS: &str = "
local   all all trust
hostssl all all 127.0.0.1/32 scram-sha-256
";

/// A table that nobody else can write.
#[derive(Debug)]
pub struct Lock<'a> {
    cluster: &'a Cluster,
    session: Child,
    holder: String,
}

impl Cluster {
    /// The broker's login is by certificate, in `broker.pem` and `broker.key` of the directory.
    pub fn start(ca: &Ca) -> Self {
        Self::start_with(ca, OBSERVED)
    }

    /// What it answered is on disk.
    pub fn start_durable(ca: &Ca) -> Self {
        Self::start_with(ca, DURABLE)
    }

    fn start_with(ca: &Ca, settings: &'static [&'static str]) -> Self {
        let directory = TempDir::new().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut cluster = Self { directory, port: free_port(), server: None, settings };
        let path = cluster.path().to_owned();
        fs::write(path.join("ca.pem"), ca.pem()).unwrap();
        ca.server("localhost").write(&path, "server");
        let login = ca.issue(|params| params.distinguished_name.push(DnType::CommonName, "keyferry-broker"));
        login.write(&path, "broker");
        give_away(&path);
        give_away(&path.join("server.key"));
        run(as_owner("initdb")
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--no-locale", "-D"])
            .arg(cluster.data()));
        fs::write(cluster.data().join("pg_ident.conf"), "broker keyferry-broker keyferry\n").unwrap();
        cluster.write_hba(HBA);
        cluster.resume();
        cluster.admin("postgres", SETUP);
        cluster
    }

    /// Where `ca.pem`, `broker.pem` and `broker.key` are.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `[databases.shop]` for a broker that logs in by certificate, and its roles `reader` and `writer`.
    pub fn configuration(&self) -> String {
        let path = self.path().display();
        self.configuration_with(&format!("certificate = \"{path}/broker.pem\"\nkey = \"{path}/broker.key\""))
    }

    pub fn configuration_with(&self, login: &str) -> String {
        format!(
            r#"
[databases.shop]
kind = "postgres"
host = "127.0.0.1"
port = {port}
database = "shop"
ca = "{path}/ca.pem"
user = "keyferry"
{login}

[databases.shop.roles.reader]
description = "reads orders"
groups = ["orders_read"]

[databases.shop.roles.writer]
groups = ["orders_write"]
search_path = ["public"]
"#,
            port = self.port,
            path = self.path().display(),
        )
    }

    /// From now on everybody logs in by password.
    pub fn demand_passwords(&self) {
        self.write_hba(HBA_PASSWORDS);
        self.admin("postgres", "SELECT pg_reload_conf()");
    }

    /// What the superuser is answered, a line a row.
    pub fn admin(&self, database: &str, sql: &str) -> String {
        said(run(self.superuser(database).args(feed(sql))))
    }

    /// A client program that logs in over TLS as the broker does.
    pub fn program_as_broker(&self, program: &str) -> Command {
        let path = self.path();
        let mut command = Command::new(binaries().join(program));
        command.env("PGHOST", "127.0.0.1").env("PGPORT", self.port.to_string()).env("PGUSER", "keyferry");
        command.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", path.join("ca.pem"));
        command.env("PGSSLCERT", path.join("broker.pem")).env("PGSSLKEY", path.join("broker.key"));
        command
    }

    /// What a user is answered over TLS, or why not.
    pub fn query(&self, user: &str, password: &str, database: &str, sql: &str) -> Result<String, String> {
        let output = self.client(user, password, database).args(feed(sql)).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(said(output)) } else { Err(error) }
    }

    /// What a user with a client certificate is answered, or why not.
    pub fn query_with_certificate(
        &self,
        user: &str,
        certificate: &Path,
        key: &Path,
        sql: &str,
    ) -> Result<String, String> {
        let mut client = self.client(user, "", "shop");
        let output = client.env("PGSSLCERT", certificate).env("PGSSLKEY", key).args(feed(sql)).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(said(output)) } else { Err(error) }
    }

    /// Keeps everybody else from writing a table until it is dropped; returns once it has it.
    pub fn lock(&self, table: &str) -> Lock<'_> {
        let sql = format!("BEGIN; LOCK {table} IN EXCLUSIVE MODE; SELECT pg_sleep(600)");
        let session = self.superuser("postgres").args(feed(&sql)).spawn().unwrap();
        let holders = format!(
            "SELECT pid FROM pg_locks WHERE relation = '{table}'::regclass AND mode = 'ExclusiveLock' AND granted"
        );
        let holder = loop {
            match self.admin("postgres", &holders) {
                none if none.is_empty() => std::thread::sleep(Duration::from_millis(10)),
                holder => break holder,
            }
        };
        Lock { cluster: self, session, holder }
    }

    /// A session that stays; returns once the server shows it.
    pub fn hold_session(&self, user: &str, password: &str) -> Child {
        let session = self.client(user, password, "shop").args(feed("SELECT pg_sleep(600)")).spawn().unwrap();
        let count =
            format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{user}' AND query LIKE '%pg_sleep%'");
        while self.admin("postgres", &count) == "0" {
            std::thread::sleep(Duration::from_millis(10));
        }
        session
    }

    /// Users that a broker made and nobody removed.
    pub fn users(&self) -> Vec<String> {
        let users = self.admin("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'kf\\_%' ORDER BY 1");
        users.lines().map(ToOwned::to_owned).collect()
    }

    pub fn is_up(&self) -> bool {
        self.server.is_some()
    }

    /// Down, at once and cleanly enough.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // Fast shutdown: sessions end, data stays.
            kill_process(Pid::from_child(&server), Signal::INT).unwrap();
            server.wait().unwrap();
        }
    }

    /// Up again on the same port; returns once it answers.
    pub fn resume(&mut self) {
        let settings = [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            format!("unix_socket_directories={}", self.path().display()),
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}/server.pem", self.path().display()),
            format!("ssl_key_file={}/server.key", self.path().display()),
            format!("ssl_ca_file={}/ca.pem", self.path().display()),
        ];
        let mut server = as_owner("postgres");
        let settings = settings.iter().map(String::as_str).chain(self.settings.iter().copied());
        server.arg("-D").arg(self.data()).args(settings.flat_map(|setting| ["-c", setting]));
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        self.server = Some(server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        while !self.answers() {
            let server = self.server.as_mut().unwrap();
            if let Some(status) = server.try_wait().unwrap() {
                panic!("PostgreSQL ended: {status}\n{}", fs::read_to_string(self.log()).unwrap());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap()
    }

    fn answers(&self) -> bool {
        self.superuser("postgres").args(["-c", "SELECT 1"]).output().unwrap().status.success()
    }

    fn superuser(&self, database: &str) -> Command {
        let mut psql = psql(database);
        psql.args(["-h", &self.path().display().to_string(), "-U", "postgres", "-p", &self.port.to_string()]);
        psql
    }

    fn client(&self, user: &str, password: &str, database: &str) -> Command {
        let mut psql = psql(database);
        psql.args(["-h", "127.0.0.1", "-U", user, "-p", &self.port.to_string()])
            .env("PGPASSWORD", password)
            .env("PGSSLMODE", "verify-full")
            .env("PGSSLROOTCERT", self.path().join("ca.pem"));
        psql
    }

    fn write_hba(&self, text: &str) {
        fs::write(self.data().join("pg_hba.conf"), text).unwrap();
    }

    fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.path().join("postgres.log")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        self.cluster.admin("postgres", &format!("SELECT pg_terminate_backend({})", self.holder));
        let _ = self.session.wait();
    }
}

/// PostgreSQL refuses to run as root.
fn as_owner(program: &str) -> Command {
    let program = std::env::var_os("KF_TEST_POSTGRES").map_or_else(binaries, PathBuf::from).join(program);
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command
}

/// Of the newest that is installed; `KF_TEST_POSTGRES` names the directory of another server's.
fn binaries() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("tools/install postgresql").map(|entry| entry.unwrap());
    let number = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    versions.map(|entry| entry.path()).max_by_key(number).unwrap().join("bin")
}

fn psql(database: &str) -> Command {
    let mut psql = Command::new(binaries().join("psql"));
    psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database]);
    psql.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    psql
}

/// A `\c` is a line of its own.
fn feed(sql: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut statements = String::new();
    for line in sql.lines() {
        if line.trim_start().starts_with('\\') {
            arguments.extend(["-c".to_owned(), std::mem::take(&mut statements)]);
            arguments.extend(["-c".to_owned(), line.trim().to_owned()]);
        } else {
            // Some statements refuse to share a transaction with others.
            for statement in line.split_inclusive(';') {
                statements.push_str(statement);
                if statement.ends_with(';') {
                    arguments.extend(["-c".to_owned(), std::mem::take(&mut statements)]);
                }
            }
            statements.push('\n');
        }
    }
    arguments.extend(["-c".to_owned(), statements]);
    arguments
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn said(output: Output) -> String {
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn give_away(path: &Path) {
    if rustix::process::geteuid().is_root() {
        let postgres = fs::read_to_string("/etc/passwd").unwrap();
        let line = postgres.lines().find(|line| line.starts_with("postgres:")).expect("a user postgres");
        let id = |field: usize| line.split(':').nth(field).unwrap().parse().ok();
        chown(path, id(2), id(3)).unwrap();
    }
    if path.is_file() {
        restrict(path);
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
