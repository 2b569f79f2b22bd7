//! What a hundred thousand cached secrets occupy.

use std::fs;
use std::process::Command;

use super::world::World;
use crate::names::{SecretName, VersionId};
use crate::secrets::Demand;

const SECRETS: usize = 100_000;
const BAR: usize = 250_000_000;
const ALONE: &str = "KEYFERRY_TEST_MEMORY";

/// Measured in a process of its own, since other tests' memory would count as well.
#[test]
fn a_hundred_thousand_secrets_of_a_kibibyte_fit_in_250_megabytes() {
    if std::env::var_os(ALONE).is_some() {
        return fill();
    }
    let name = "secrets::tests::memory::a_hundred_thousand_secrets_of_a_kibibyte_fit_in_250_megabytes";
    let alone = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&alone.stdout);
    print!("{said}");
    assert!(alone.status.success() && said.contains("resident"), "{said}{}", String::from_utf8_lossy(&alone.stderr));
}

fn fill() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let world = World::sized(240 << 20);
        world.store.script().padding = 1024;
        for number in 0..SECRETS {
            let secret = SecretName::parse(&format!("stores/main/secrets/orders-db-password-{number}")).unwrap();
            world.store.put(&secret, 1);
            world.secrets.read(&secret, &VersionId::Latest, Demand::default()).await.unwrap();
            world.store.script().versions.clear();
        }
        world.secrets.tidy();
        let account = world.secrets.cache_accounts()[0];
        let resident = resident();
        println!(
            "{resident} bytes resident with {} secrets, {} by the cache's own count",
            account.entries, account.bytes
        );
        assert_eq!((account.entries, account.evicted), (SECRETS as u64, 0));
        assert!(resident < BAR);
        // The bound is only worth what the estimate behind it is.
        let counted = usize::try_from(account.bytes).unwrap();
        assert!(resident < counted + counted / 5, "the estimate is too low");
    });
}

fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * rustix::param::page_size()
}
