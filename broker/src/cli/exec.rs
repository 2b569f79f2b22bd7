//! `keyferry exec`

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use keyferry_client::Secret;
use rustix::process::Signal;
use tokio::process::Command;
use tokio::time::sleep;

use super::child::{Child, Forwarded, ended_by, exit_code};
use super::connection::{Server, block_on};
use super::failure::Failure;
use super::following::Following;
use super::{Complaint, names, say_error};
use crate::config::parse_duration;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    server: Server,
    /// A variable of the command's environment, and the secret that it holds; once for each
    #[arg(long = "env", value_name = "NAME=STORE/SECRET", value_parser = variable, required = true)]
    variables: Vec<(String, String)>,
    /// What the command gets when a secret changes: restart, signal:NAME or none
    #[arg(long, value_name = "WHAT", value_parser = on_rotation, default_value = "restart")]
    on_rotation: OnRotation,
    /// How long it may take to end before it is killed
    #[arg(long, value_name = "SPAN", value_parser = parse_duration, default_value = "10s")]
    grace: Duration,
    /// The shortest time between two restarts or signals; what changes within it comes together at its end
    #[arg(long, value_name = "SPAN", value_parser = parse_duration, default_value = "10s")]
    interval: Duration,
    /// The name under which the broker knows this program: old versions then retire after it has the new ones
    #[arg(long, value_name = "NAME")]
    subscriber: Option<String>,
    /// The command and its arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
enum OnRotation {
    Restart,
    Signal(Signal),
    None,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Complaint> {
    block_on(async {
        let mut signals = Forwarded::listen()?;
        let mut following = tokio::select! {
            following = args.follow() => following?,
            // Until there is a program, each is this process's own, and would end any that does not know it.
            signal = signals.received() => return Ok(ended_by(signal)),
        };
        let mut child = match args.start(args.environment(following.current())?)? {
            Ok(child) => child,
            Err(code) => return Ok(code),
        };
        following.acknowledge();
        let mut due = false;
        let rest = sleep(Duration::ZERO);
        tokio::pin!(rest);
        loop {
            tokio::select! {
                ended = child.ended() => return Ok(exit_code(ended?)),
                signal = signals.next() => child.send(signal),
                () = following.changed() => due = true,
                () = &mut rest, if due => {
                    due = false;
                    rest.set(sleep(args.interval));
                    let environment = match args.environment(following.current()) {
                        Ok(environment) => environment,
                        Err(unusable) => {
                            say_error(&format!("{unusable}; the command runs on as it is"));
                            continue;
                        }
                    };
                    match args.on_rotation {
                        OnRotation::Restart => {
                            if let Some(ended) = args.stop(&mut child, &mut signals).await? {
                                return Ok(exit_code(ended));
                            }
                            match args.start(environment)? {
                                Ok(next) => child = next,
                                Err(code) => return Ok(code),
                            }
                            following.acknowledge();
                        }
                        // Its environment has the version before, so that is not let go of.
                        OnRotation::Signal(signal) => child.send(signal),
                        OnRotation::None => {}
                    }
                }
            }
        }
    })
}

/// Whoever sends one of these wants the program gone, and no other in its place.
const ENDING: [Signal; 3] = [Signal::TERM, Signal::INT, Signal::QUIT];

/// Variables with their values.
type Environment<'a> = Vec<(&'a str, &'a OsStr)>;

impl Args {
    async fn follow(&self) -> Result<Following, Complaint> {
        let client = self.server.connect().await?;
        let names: BTreeSet<_> = self.variables.iter().map(|(_, secret)| secret.clone()).collect();
        Ok(Following::start(&client, names, self.subscriber.clone()).await?)
    }

    fn environment<'a>(&'a self, secrets: &'a BTreeMap<String, Secret>) -> Result<Environment<'a>, Complaint> {
        let mut environment = Vec::new();
        for (variable, name) in &self.variables {
            let Some(secret) = secrets.get(name) else { continue };
            if secret.payload.contains(&0) {
                return Err(format!("{name} holds a zero byte, which no variable can; use `keyferry render`").into());
            }
            environment.push((variable.as_str(), OsStr::from_bytes(&secret.payload)));
        }
        Ok(environment)
    }

    fn start(&self, environment: Environment<'_>) -> Result<Result<Child, ExitCode>, Complaint> {
        let [program, arguments @ ..] = self.command.as_slice() else {
            return Err(Failure::usage("no command is given").into());
        };
        let mut command = Command::new(program);
        Ok(Child::start(command.args(arguments).envs(environment)).map_err(|(code, why)| {
            say_error(&why);
            code
        }))
    }

    /// How it ended, where somebody wanted that meanwhile for good.
    async fn stop(&self, child: &mut Child, signals: &mut Forwarded) -> std::io::Result<Option<ExitStatus>> {
        let mut leaving = false;
        let stopped = child.stop(self.grace);
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                ended = &mut stopped => return Ok(leaving.then_some(ended?)),
                signal = signals.next() => leaving |= ENDING.contains(&signal),
            }
        }
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(("", _)) | None => Err("write NAME=STORE/SECRET".to_owned()),
        Some((_, "")) => Err("no secret is named".to_owned()),
        Some((name, secret)) => Ok((name.to_owned(), names::secret(secret))),
    }
}

fn on_rotation(text: &str) -> Result<OnRotation, String> {
    let signal = match text {
        "restart" => return Ok(OnRotation::Restart),
        "none" => return Ok(OnRotation::None),
        "signal:HUP" => Signal::HUP,
        "signal:USR1" => Signal::USR1,
        "signal:USR2" => Signal::USR2,
        "signal:INT" => Signal::INT,
        "signal:TERM" => Signal::TERM,
        _ => {
            return Err(
                "one of restart, none, signal:HUP, signal:USR1, signal:USR2, signal:INT, signal:TERM".to_owned()
            );
        }
    };
    Ok(OnRotation::Signal(signal))
}
