//! `keyferry render`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::getuid;
use tokio::process::Command;
use tokio::time::timeout;

use super::child::Child;
use super::connection::{Server, block_on};
use super::failure::Failure;
use super::file::Placement;
use super::following::Following;
use super::serve::Signals;
use super::template::Template;
use super::{Complaint, mention, say_error};
use crate::config::parse_duration;

/// Before what went wrong is tried again.
const AGAIN: Duration = Duration::from_secs(30);
/// For a command past its limit to end by itself.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    server: Server,
    /// A template, and the file that it is rendered to; once for each
    #[arg(required = true, value_name = "TEMPLATE=FILE", value_parser = pair)]
    files: Vec<(PathBuf, PathBuf)>,
    /// The files' mode, in octal
    #[arg(long, value_name = "MODE", value_parser = mode, default_value = "600")]
    mode: u32,
    /// Whose the files are, by number or name
    #[arg(long, value_name = "USER[:GROUP]", value_parser = owner)]
    owner: Option<(u32, Option<u32>)>,
    /// Render and end, rather than again at each rotation
    #[arg(long)]
    once: bool,
    /// The name under which the broker knows this program: old versions then retire once the files have the new ones
    #[arg(long, value_name = "NAME", conflicts_with = "once")]
    subscriber: Option<String>,
    /// How long the command may run before it is stopped
    #[arg(long, value_name = "SPAN", value_parser = parse_duration, default_value = "1m", requires = "command")]
    limit: Duration,
    /// Run after files have changed, after --
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

struct Output {
    source: PathBuf,
    template: Template,
    target: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Complaint> {
    let outputs = args.outputs()?;
    block_on(async {
        let client = args.server.connect().await?;
        let names: BTreeSet<_> = outputs.iter().flat_map(|output| output.template.secrets()).collect();
        let mut following = Following::start(&client, names, args.subscriber.clone())
            .await
            .map_err(|failure| locate(failure, &outputs))?;
        if args.once {
            args.render(&outputs, &mut following, &mut false).await?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut signals = Signals::listen()?;
        tokio::select! {
            failed = args.keep(&outputs, &mut following) => failed?,
            _ = signals.next() => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

impl Args {
    /// All are read before anything is asked for.
    fn outputs(&self) -> Result<Vec<Output>, Failure> {
        let output = |(source, target): &(PathBuf, PathBuf)| {
            let text = std::fs::read_to_string(source)
                .map_err(|error| Failure::usage(format!("cannot read {}: {error}", source.display())))?;
            let template =
                Template::parse(&text).map_err(|mistake| Failure::usage(format!("{}:{mistake}", source.display())))?;
            Ok(Output { source: source.clone(), template, target: target.clone() })
        };
        self.files.iter().map(output).collect()
    }

    /// What goes wrong the first time ends it.
    async fn keep(&self, outputs: &[Output], following: &mut Following) -> Result<(), Complaint> {
        let mut owed = false;
        self.render(outputs, following, &mut owed).await?;
        let mut failing = false;
        loop {
            if failing {
                // What went wrong is tried again, whether or not something changes.
                let _ = timeout(AGAIN, following.changed()).await;
            } else {
                following.changed().await;
            }
            let done = self.render(outputs, following, &mut owed).await;
            failing = done.is_err();
            if let Err(error) = done {
                say_error(&error.to_string());
            }
        }
    }

    /// Nothing is written before all could be rendered. `owed`: a file was replaced, and the command has not heard of it.
    async fn render(&self, outputs: &[Output], following: &mut Following, owed: &mut bool) -> Result<(), Complaint> {
        let mut rendered = Vec::new();
        for output in outputs {
            let text = output.template.render(following.current());
            let mistaken = |mistake| format!("{}:{mistake}; the files stay as they are", output.source.display());
            rendered.push(text.map_err(mistaken)?);
        }
        let placement = Placement { mode: self.mode, owner: self.owner };
        for (output, content) in outputs.iter().zip(&rendered) {
            let target = output.target.as_path();
            let place = placement.put(target, content);
            if place.map_err(|error| format!("cannot write {}: {error}", target.display()))? {
                *owed = true;
                mention(&format!("wrote {}", target.display()));
            }
        }
        if *owed {
            self.tell().await?;
            *owed = false;
        }
        following.acknowledge();
        Ok(())
    }

    async fn tell(&self) -> Result<(), Complaint> {
        let [program, arguments @ ..] = self.command.as_slice() else { return Ok(()) };
        let mut command = Command::new(program);
        let mut child = Child::start(command.args(arguments)).map_err(|(_, why)| why)?;
        let Ok(ended) = timeout(self.limit, child.ended()).await else {
            child.stop(GRACE).await?;
            let limit = self.limit;
            return Err(format!("{program} was stopped, since it did not end within {limit:?}; see --limit").into());
        };
        let ended = ended?;
        if ended.success() { Ok(()) } else { Err(format!("{program} failed: {ended}").into()) }
    }
}

/// A failure to read begins with the secret's name: where that is in a template is told before it.
fn locate(failure: Failure, outputs: &[Output]) -> Failure {
    let message = failure.to_string();
    let secret = message.split(": ").next().unwrap_or_default();
    let place = outputs.iter().find_map(|output| Some((&output.source, output.template.line_of(secret)?)));
    match place {
        Some((source, line)) => failure.at(&format!("{}:{line}", source.display())),
        None => failure,
    }
}

fn pair(text: &str) -> Result<(PathBuf, PathBuf), String> {
    match text.split_once('=') {
        Some((template, file)) if !template.is_empty() && Path::new(file).file_name().is_some() => {
            Ok((template.into(), file.into()))
        }
        _ => Err("write TEMPLATE=FILE".to_owned()),
    }
}

fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777).ok_or_else(|| "write it like 640".to_owned())
}

fn owner(text: &str) -> Result<(u32, Option<u32>), String> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let user = if user.is_empty() { getuid().as_raw() } else { id("/etc/passwd", user)? };
    let group = group.map(|group| id("/etc/group", group)).transpose()?;
    Ok((user, group))
}

/// The third field of the line that begins with the name, as both files have it.
fn id(file: &str, name: &str) -> Result<u32, String> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let lines = std::fs::read_to_string(file).unwrap_or_default();
    let mut fields =
        lines.lines().map(|line| line.split(':')).filter_map(|mut line| Some((line.next()?, line.nth(1)?)));
    let found = fields.find(|(named, _)| *named == name).and_then(|(_, id)| id.parse().ok());
    found.ok_or_else(|| format!("there is no {name} in {file}"))
}
