//! Carries out every attack on a broker and prints what good callers noticed.
//!
//! `attack PATH-OF-KEYFERRY [NAME…]`; exits with 1 where a bar is missed.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's output is for its reader")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use keyferry_tests::attack::{Attack, Flood, Pace, Siege, Strength};

const FULL: Pace = Pace {
    calm: Duration::from_secs(5),
    attack: Duration::from_secs(10),
    call_every: Duration::from_millis(10),
    strength: Strength { peers: 16, sockets: 2_000, idle: 10_000 },
    noise: Duration::from_millis(10),
    newcomers_noise: Duration::from_millis(150),
    memory_noise_kib: 16 << 10,
};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(program) = arguments.next().map(PathBuf::from) else {
        eprintln!("usage: attack PATH-OF-KEYFERRY [NAME…]");
        return ExitCode::from(2);
    };
    let named: Vec<String> = arguments.collect();
    let all = Flood::ALL.map(Attack::Flood).into_iter().chain(Attack::SLOW).chain([Attack::Bombs, Attack::Idle]);
    let mut siege = Siege::start(&program, FULL);
    let mut missed = Vec::new();
    for attack in all.filter(|attack| named.is_empty() || named.contains(&attack.to_string())) {
        let figures = siege.suffer(attack);
        println!("{figures}");
        missed.extend(figures.missed());
    }
    if missed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("over the bar: {}", missed.join("; "));
    ExitCode::FAILURE
}
