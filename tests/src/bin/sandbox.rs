//! `cargo run -p keyferry-tests --bin sandbox`: a broker between two clouds that break on command, on loopback alone.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a tool for people, who see what stopped it")]

use std::process::ExitCode;

use keyferry_tests::sandbox::{Command, HELP, Sandbox};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> ExitCode {
    if std::env::args().len() > 1 {
        println!("usage: sandbox\n\nStarts without options and reads these commands:\n{HELP}");
        return ExitCode::from(2);
    }
    // Before anything is started: whoever ends it early must leave nothing behind either.
    let mut terminated = signal(SignalKind::terminate()).unwrap();
    let mut interrupted = signal(SignalKind::interrupt()).unwrap();
    let sandbox = Sandbox::start().await;
    println!("{}\n{HELP}", sandbox.greeting());
    tokio::select! {
        () = converse(&sandbox) => {}
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    sandbox.stop().await;
    println!("ended");
    ExitCode::SUCCESS
}

/// One line in, one answer out, until told to quit.
async fn converse(sandbox: &Sandbox) {
    let mut lines = lines_of_input();
    while let Some(line) = lines.recv().await {
        match Command::parse(&line) {
            Ok(None) => {}
            Ok(Some(Command::Quit)) => return,
            Ok(Some(command)) => println!("{}", sandbox.obey(command)),
            Err(complaint) => println!("{complaint}"),
        }
    }
    // Input that has ended is no reason to: it may have been started in the background.
    std::future::pending::<()>().await;
}

/// Read by a thread that nothing waits for, because nothing can interrupt it.
fn lines_of_input() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
