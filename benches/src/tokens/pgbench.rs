//! The bound: the broker's statements, sent by PostgreSQL's own load generator.

use std::fs;

use keyferry_benches::Outcome;
use keyferry_tests::postgres::Cluster;

use crate::{CLIENTS, ROUND};

/// As the broker sends them: together, and so as one transaction.
const SCRIPT: &str = r#"
\set n random(1, 9000000000000000)
CREATE ROLE "pgbench_:n" LOGIN CONNECTION LIMIT 10 PASSWORD E'SCRAM-SHA-256$4096:MTIzNDU2Nzg5MDEyMzQ1Ng==$MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=:MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=' VALID UNTIL E'2100-01-01T00:00:00.000000Z' \; COMMENT ON ROLE "pgbench_:n" IS E'keyferry 0123456789abcdef 00065f0c3c6a1f8a9b3c1d2e4f5a6b reader x509/spiffe://test.keyferry/operator' \; GRANT "orders_read" TO "pgbench_:n";
"#;

pub(crate) fn rate(database: &Cluster) -> Outcome<f64> {
    let script = database.path().join("pgbench.sql");
    fs::write(&script, SCRIPT)?;
    let mut pgbench = database.program_as_broker("pgbench");
    pgbench.args(["--no-vacuum", "--jobs=2", &format!("--client={CLIENTS}"), &format!("--time={}", ROUND.as_secs())]);
    let output = pgbench.arg("--file").arg(&script).arg("shop").output()?;
    let said = String::from_utf8(output.stdout)?;
    let tps = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    tps.ok_or_else(|| format!("pgbench: {said}{}", String::from_utf8_lossy(&output.stderr)).into())
}
