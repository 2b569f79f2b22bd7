//! `keyferry dev`: a broker on loopback that needs nothing but a directory.

use std::fmt::Write as _;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use rcgen::KeyPair;
use zeroize::Zeroizing;

use super::dev_pki::{Authority, TRUST_DOMAIN, write_private};
use super::{Complaint, dev_issuer, mention, serve};
use crate::clock::SystemClock;
use crate::names::StoreName;
use crate::providers::local::{LocalKey, LocalStore};
use crate::secrets::{Provider as _, SecretBytes};

const ISSUER_KEY: &str = "issuer-key";
const POLICY: &str = include_str!("dev.cedar");

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where certificates, configuration, policy and the sample secrets are kept between runs
    #[arg(long, value_name = "DIR", default_value = ".keyferry-dev")]
    dir: PathBuf,
    /// The address for gRPC; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7443")]
    listen: SocketAddr,
    /// The address for the issuer's keys
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7444")]
    web: SocketAddr,
    /// The address for health and metrics
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7445")]
    admin: SocketAddr,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Complaint> {
    if ![args.listen, args.web, args.admin].iter().all(|address| address.ip().is_loopback()) {
        return Err(
            "dev mode serves on loopback only; for anything else write a configuration and `keyferry serve`".into()
        );
    }
    // Before anything is rewritten: another dev's clients would lose their CA under their feet.
    let _lock = lock(&args.dir)?;
    prepare(args)?;
    let config = super::load(&args.dir.join("keyferry.toml"))?;
    let (dir, in_path) = (args.dir.clone(), grpcurl_in_path());
    serve::run_until_signalled(config, move |broker| {
        // Only now the ports are known.
        write_profiles(&dir, broker.grpc_address())?;
        mention(&greeting(&dir, broker.grpc_address(), in_path));
        Ok(())
    })
}

fn lock(dir: &Path) -> Result<File, Complaint> {
    std::fs::create_dir_all(dir).map_err(|error| format!("cannot create {}: {error}", dir.display()))?;
    let lock = File::create(dir.join("lock"))?;
    lock.try_lock().map_err(|_| {
        format!(
            "another `keyferry dev` runs in {}; stop it, or give this one a --dir and --listen of its own",
            dir.display()
        )
    })?;
    Ok(lock)
}

/// Everything is made anew but what the secrets need: a broken experiment is cured by starting again.
fn prepare(args: &Args) -> Result<(), Complaint> {
    let dir = &args.dir;
    let attempt = || -> Result<(), Complaint> {
        std::fs::create_dir_all(dir.join("policy"))?;
        let authority = Authority::new()?;
        authority.write(&dir.join("ca.pem"))?;
        authority.issue_server(dir)?;
        authority.issue_client(dir, "client")?;
        authority.issue_client(dir, "operator")?;
        dev_issuer::write(dir)?;
        let policy = dir.join("policy/dev.cedar");
        if !policy.exists() {
            write_private(&policy, POLICY)?;
        }
        write_private(&dir.join("keyferry.toml"), &configuration(args)?)?;
        write_samples(dir)
    };
    attempt().map_err(|error| format!("cannot prepare {}: {error}", dir.display()).into())
}

/// A configuration that `keyferry serve --config` takes as well; its paths are relative to itself.
fn configuration(args: &Args) -> Result<String, Complaint> {
    let mut web = args.web;
    if web.port() == 0 {
        // Tokens name it, so it has to be known before.
        web = TcpListener::bind(web)?.local_addr()?;
    }
    Ok(format!(
        r#"# Written by `keyferry dev` at each start. Copy it to change it.

[listen]
grpc = "{grpc}"
web = "{web}"
admin = "{admin}"

[tls]
certificate = "server.pem"
key = "server.key"
client_ca = ["ca.pem"]
trust_domains = {{ "{domain}" = "ca.pem" }}

[issuers.dev]
url = "{issuer}"
audiences = ["{audience}"]
keys = "issuer.jwks.json"
maximum_lifetime = "168h"

[policy]
directory = "policy"

[stores.local]
kind = "local"
file = "secrets.redb"
key_file = "secrets.key"

# Rotated when it is told to; with `every` or `schedule` also by itself.
[rotations.db-password]
targets = ["stores/local/secrets/db-password"]
kind = "generate"

# As a CockroachDB would have it; none has to be there for tokens to be minted.
[issuer]
url = "https://{web}"
signing_key = "stores/local/secrets/{ISSUER_KEY}"

[databases.orders]
kind = "cockroach"
host = "localhost"
database = "orders"
ca = "ca.pem"
audience = "orders-dev"

[databases.orders.roles.app]
description = "reads and writes orders"
user = "app"
"#,
        grpc = args.listen,
        admin = args.admin,
        domain = TRUST_DOMAIN,
        issuer = dev_issuer::ISSUER,
        audience = dev_issuer::AUDIENCE,
    ))
}

/// Sample secrets, where the store is new, and the key that tokens for databases are signed with.
fn write_samples(dir: &Path) -> Result<(), Complaint> {
    let (key, file) = (dir.join("secrets.key"), dir.join("secrets.redb"));
    let is_new = !file.exists();
    let key = if key.exists() { LocalKey::read_file(&key)? } else { LocalKey::generate_file(&key)? };
    let name = StoreName::from_id("local")?;
    let store = LocalStore::open(name.clone(), &file, &key, Arc::new(SystemClock))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let add = |id: &str, env: &str, value: &str| -> Result<(), Complaint> {
        let labels = Arc::new([("env".to_owned(), env.to_owned())].into());
        let payload = SecretBytes::new(value.as_bytes().to_vec());
        runtime.block_on(store.add(&name.secret(id)?, payload, Some(labels)))?;
        Ok(())
    };
    if is_new {
        add("hello", "dev", "world")?;
        add("db-password", "dev", "correct-horse")?;
        add("api-key", "prod", "not-for-the-client")?;
    }
    if runtime.block_on(store.describe(&name.secret(ISSUER_KEY)?)).is_err() {
        add(ISSUER_KEY, "prod", &Zeroizing::new(KeyPair::generate()?.serialize_pem()))?;
    }
    Ok(())
}

/// So that `keyferry get local/hello` works from where dev was started.
fn write_profiles(dir: &Path, address: SocketAddr) -> Result<(), Complaint> {
    for caller in ["client", "operator"] {
        let profile = format!(
            "server = \"https://{address}\"\nca = \"ca.pem\"\ncert = \"{caller}.pem\"\nkey = \"{caller}.key\"\n"
        );
        write_private(&dir.join(format!("{caller}.toml")), &profile)?;
    }
    Ok(())
}

fn grpcurl_in_path() -> bool {
    let found = |directory: PathBuf| directory.join("grpcurl").is_file();
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(found))
}

fn greeting(dir: &Path, address: SocketAddr, grpcurl: bool) -> String {
    let dir = dir.display();
    let me = std::env::args().next().unwrap_or_else(|| "keyferry".to_owned());
    let mut text = format!(
        r#"
Keyferry serves on {address}. From this directory, in another shell:

  {me} get local/hello | cat
  {me} list local
  {me} mint orders/app
  echo -n "world 2" | {me} put local/hello --profile {dir}/operator.toml
  {me} status --profile {dir}/operator.toml

Or with any gRPC client:

  kf() {{ grpcurl -cacert {dir}/ca.pem -cert {dir}/client.pem -key {dir}/client.key "$@"; }}

  kf {address} list
  kf -d '{{"name": "stores/local/secrets/hello"}}' {address} keyferry.v1.SecretService/GetSecret
  kf -d '{{"parent": "stores/local"}}' {address} keyferry.v1.SecretService/ListSecrets
  kf -d '{{"name": "stores/local/secrets/api-key"}}' {address} keyferry.v1.SecretService/GetSecret   # hidden: env=prod
  kf -d '{{"name": "databases/orders/roles/app"}}' {address} keyferry.v1.TokenService/MintDatabaseToken

As somebody with a token beside the certificate:

  kf -H "authorization: Bearer $(cat {dir}/token.jwt)" {address} keyferry.v1.OperatorService/WhoAmI

As the operator:

  kfo() {{ grpcurl -cacert {dir}/ca.pem -cert {dir}/operator.pem -key {dir}/operator.key "$@"; }}

  kfo -d '{{"parent": "stores/local/secrets/hello", "payload": "d29ybGQgMg=="}}' {address} keyferry.v1.SecretService/AddSecretVersion
  kfo -d '{{"name": "stores/local/secrets/db-password"}}' {address} keyferry.v1.RotationService/RotateSecret
  kfo {address} keyferry.v1.OperatorService/GetStatus

Every call is on record:  {me} audit verify {dir}/audit
The policy:               {dir}/policy/dev.cedar (edit it; it is reloaded)
"#
    );
    if !grpcurl {
        let _ = writeln!(text, "grpcurl is not in your PATH; `tools/install grpcurl` puts it into .tools/bin.");
    }
    text
}
