//! How fast database users are made, beside what bounds it and what else makes them, on one PostgreSQL; and what many
//! live leases cost.
//!
//! `tokens [--report] KEYFERRY BAO [JSON]`: fails when a bar is missed; `--report` only prints. The page of `make bench`
//! shows what is left in JSON.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's output is for its reader")]
#![allow(clippy::disallowed_methods, reason = "the real time is what is measured")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]

mod keyferry;
mod openbao;
mod pgbench;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use keyferry_benches::Outcome;
use keyferry_tests::pki::Ca;
use keyferry_tests::postgres::Cluster;
use serde_json::json;

const CLIENTS: usize = 8;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(10);
/// Bars of the project.
const OF_PGBENCH: f64 = 0.8;
const OF_OPENBAO: f64 = 2.0;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let report_only = arguments.first().is_some_and(|argument| argument == "--report");
    if report_only {
        arguments.remove(0);
    }
    let [keyferry, bao, json @ ..] = &*arguments else {
        eprintln!("usage: tokens [--report] PATH-OF-KEYFERRY PATH-OF-BAO [PATH-OF-JSON]");
        return ExitCode::from(2);
    };
    match measure(Path::new(keyferry), Path::new(bao), json.first().map(Path::new)) {
        Ok(met) if met || report_only => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cannot measure: {error}");
            ExitCode::from(2)
        }
    }
}

fn measure(keyferry: &Path, bao: &Path, json: Option<&Path>) -> Outcome<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mints = runtime.block_on(mints(keyferry, bao, json))?;
    Ok(runtime.block_on(keyferry::many_leases(keyferry))? && mints)
}

/// Side by side, in turns, so that whatever else the machine does hits all alike. Tells whether the bars are met.
async fn mints(keyferry: &Path, bao: &Path, json: Option<&Path>) -> Outcome<bool> {
    let ca = Ca::new("bench CA");
    let database = Cluster::start_durable(&ca);
    let broker = keyferry::Broker::start(keyferry, &ca, &database)?;
    let other = openbao::Engine::start(bao, &ca, &database).await?;
    let [mut bare, mut ours, mut theirs] = [0.0; 3];
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        let rates = [pgbench::rate(&database)?, broker.rate().await?, other.rate().await?];
        println!(
            "round {round} of {ROUNDS}: pgbench {:.0}/s, keyferry {:.0}/s, OpenBao {:.0}/s",
            rates[0], rates[1], rates[2]
        );
        rounds.push(json!({ "pgbench": rates[0], "keyferry": rates[1], "openbao": rates[2] }));
        bare += rates[0];
        ours += rates[1];
        theirs += rates[2];
    }
    if let Some(file) = json {
        file.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(file, format!("{:#}\n", json!({ "clients": CLIENTS, "rounds": rounds })))?;
    }
    println!("users made by {CLIENTS} clients at once");
    let enough = row("keyferry / pgbench", ours / bare, "", |value| value >= OF_PGBENCH, OF_PGBENCH);
    let more = row("keyferry / OpenBao", ours / theirs, "", |value| value >= OF_OPENBAO, OF_OPENBAO);
    Ok(enough && more)
}

fn row(name: &str, value: f64, unit: &str, met: impl Fn(f64) -> bool, bar: f64) -> bool {
    let met = met(value);
    println!("  {name:<24} {value:>8.2} {unit:<3}  (bar {bar} {unit}: {})", if met { "met" } else { "MISSED" });
    met
}

/// How many a second, by so many clients at once for so long.
async fn rate_of<C: Send + 'static, F>(clients: Vec<C>, ask: impl Fn(C) -> F + Copy + Send + 'static) -> Outcome<f64>
where
    F: Future<Output = Outcome<C>> + Send,
{
    let begun = Instant::now();
    let mut working = tokio::task::JoinSet::new();
    for mut client in clients {
        working.spawn(async move {
            let mut made = 0_u32;
            while begun.elapsed() < ROUND {
                client = ask(client).await?;
                made += 1;
            }
            Outcome::Ok(made)
        });
    }
    let mut all = 0;
    while let Some(made) = working.join_next().await {
        all += made??;
    }
    Ok(f64::from(all) / begun.elapsed().as_secs_f64())
}
