//! `keyferry rotate` and `keyferry rotations`

use std::process::ExitCode;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use keyferry_proto::v1::{
    CancelRotationRequest, GetRotationRequest, ListRotationsRequest, RetireRotationRequest, RotateSecretRequest,
    Rotation, RotationState, RotationTarget,
};
use serde_json::{Value, json};

use super::connection::{Asking, Connection, block_on};
use super::text::{plain, reason, relative, shown, time, told};
use super::{Complaint, names};

/// How often a rotation that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub(super) struct RotateArgs {
    #[command(flatten)]
    asking: Asking,
    /// STORE/SECRET, or its whole name
    secret: String,
    /// Follow it until the new version is current, or until the old one is retired
    #[arg(long, value_name = "UNTIL", num_args = 0..=1, default_missing_value = "current")]
    wait: Option<Until>,
    /// Start although the window is closed, or the last rotation's old version has not retired yet
    #[arg(long)]
    force: bool,
    /// Show what would happen, and start nothing
    #[arg(long)]
    dry_run: bool,
    /// For the record: why
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Until {
    Current,
    Retired,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// The rotations that you may see, newest first
    List {
        #[command(flatten)]
        asking: Asking,
        /// Of this secret only
        #[arg(long, value_name = "STORE/SECRET", default_value = "", hide_default_value = true)]
        secret: String,
        /// How many
        #[arg(long, value_name = "N", default_value_t = 50)]
        most: i32,
    },
    /// One rotation
    Show(One),
    /// Stop one: before CURRENT the old version stays, after it the old version is not retired
    Cancel(One),
    /// Retire the old version now, whoever still runs it
    Retire(One),
}

#[derive(Debug, clap::Args)]
pub(super) struct One {
    #[command(flatten)]
    asking: Asking,
    /// Its name, or its id
    rotation: String,
    /// For the record: why
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    why: String,
}

pub(super) fn rotate(args: &RotateArgs) -> Result<ExitCode, Complaint> {
    block_on(async {
        let broker = args.asking.connect().await?;
        let request = RotateSecretRequest {
            name: names::secret(&args.secret),
            validate_only: args.dry_run,
            force: args.force,
            justification: args.why.clone(),
            ..RotateSecretRequest::default()
        };
        let answer = broker.ask(request).await?;
        let rotation = answer.rotation.unwrap_or_default();
        let Some(until) = args.wait.filter(|_| !args.dry_run) else {
            print(&rotation, &args.asking)?;
            return Ok(ExitCode::SUCCESS);
        };
        follow(&broker, rotation, until, &args.asking).await
    })
}

/// Says each step once, and ends with failure where the rotation does.
async fn follow(
    broker: &Connection,
    mut rotation: Rotation,
    until: Until,
    asking: &Asking,
) -> Result<ExitCode, Complaint> {
    let mut said = None;
    loop {
        let now = standing(&rotation);
        if said.as_ref() != Some(&now) {
            asking.tell(|| to_json(&rotation), || progress(&rotation))?;
            said = Some(now);
        }
        match rotation.state() {
            RotationState::Retired => return Ok(ExitCode::SUCCESS),
            RotationState::Current | RotationState::Retiring if until == Until::Current => {
                return Ok(ExitCode::SUCCESS);
            }
            RotationState::Failed | RotationState::Cancelled => return Ok(ExitCode::FAILURE),
            RotationState::Unspecified
            | RotationState::Planned
            | RotationState::Created
            | RotationState::Set
            | RotationState::Tested
            | RotationState::Current
            | RotationState::Retiring => tokio::time::sleep(LOOK).await,
        }
        rotation = get(broker, &rotation.name).await?;
    }
}

/// What a new line is worth.
fn standing(rotation: &Rotation) -> (i32, i32, i32, Option<String>) {
    let error = rotation.last_error.as_ref().map(told);
    (rotation.state, rotation.acknowledged_count, rotation.pending_count, error)
}

fn progress(rotation: &Rotation) -> String {
    let mut line = format!("{}  {}", shown(rotation.update_time.as_ref()), state(rotation));
    match rotation.state() {
        RotationState::Planned => line.push_str(&format!("  {} for {}", rotation.name, rotation.secret)),
        RotationState::Created => {
            let versions = rotation.targets.iter().map(|target| target.version.as_str());
            line.push_str(&format!("  {}", versions.collect::<Vec<_>>().join(", ")));
        }
        RotationState::Current | RotationState::Retiring => {
            let (acknowledged, pending) = (rotation.acknowledged_count, rotation.pending_count);
            line.push_str(&format!("  {acknowledged} of {} subscribers run it", acknowledged + pending));
            if let Some(deadline) = rotation.retire_deadline_time.as_ref().and_then(time) {
                line.push_str(&format!("; the old version retires at {deadline} at the latest"));
            }
        }
        RotationState::Unspecified
        | RotationState::Set
        | RotationState::Tested
        | RotationState::Retired
        | RotationState::Failed
        | RotationState::Cancelled => {}
    }
    if let Some(error) = &rotation.last_error {
        line.push_str(&format!("  {}", told(error)));
    }
    line
}

pub(super) fn run(verb: &Verb) -> Result<ExitCode, Complaint> {
    block_on(async {
        match verb {
            Verb::List { asking, secret, most } => {
                let request = ListRotationsRequest {
                    page_size: *most,
                    secret: names::secret(secret),
                    ..ListRotationsRequest::default()
                };
                let broker = asking.connect().await?;
                let rotations = broker.ask(request).await?.rotations;
                let header = ["rotation", "state", "started", "secret", "error"];
                asking.tell_all(&rotations, to_json, header, |rotation| vec![row(rotation)])?;
            }
            Verb::Show(one) => {
                let broker = one.asking.connect().await?;
                print(&get(&broker, &names::within("rotations", &one.rotation)).await?, &one.asking)?;
            }
            Verb::Cancel(one) => {
                let request = CancelRotationRequest {
                    name: names::within("rotations", &one.rotation),
                    justification: one.why.clone(),
                    ..CancelRotationRequest::default()
                };
                let broker = one.asking.connect().await?;
                let answer = broker.ask(request).await?;
                print(&answer.rotation.unwrap_or_default(), &one.asking)?;
            }
            Verb::Retire(one) => {
                let request = RetireRotationRequest {
                    name: names::within("rotations", &one.rotation),
                    justification: one.why.clone(),
                    ..RetireRotationRequest::default()
                };
                let broker = one.asking.connect().await?;
                let answer = broker.ask(request).await?;
                print(&answer.rotation.unwrap_or_default(), &one.asking)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn get(broker: &Connection, name: &str) -> Result<Rotation, Complaint> {
    let request = GetRotationRequest { name: name.to_owned() };
    Ok(broker.ask(request).await?.rotation.unwrap_or_default())
}

fn print(rotation: &Rotation, asking: &Asking) -> Result<(), Complaint> {
    asking.tell(|| to_json(rotation), || to_text(rotation))
}

fn row(rotation: &Rotation) -> Vec<String> {
    vec![
        rotation.name.clone(),
        state(rotation),
        relative(rotation.create_time.as_ref()),
        rotation.secret.clone(),
        rotation.last_error.as_ref().map(told).unwrap_or_default(),
    ]
}

fn to_text(rotation: &Rotation) -> String {
    let name = if rotation.name.is_empty() { "a rotation that was not started" } else { &rotation.name };
    let mut lines = vec![
        format!("{name}  {}", state(rotation)),
        format!("  secret     {}", rotation.secret),
        format!("  strategy   {}", strategy(rotation)),
        format!("  started    {} by {}", shown(rotation.create_time.as_ref()), starter(rotation)),
    ];
    if !rotation.justification.is_empty() {
        lines.push(format!("  why        {}", rotation.justification));
    }
    lines.extend(rotation.targets.iter().map(|target| format!("  target     {}", of_target(target))));
    let steps = rotation.steps.iter().map(|step| {
        let again = if step.attempts > 1 { format!(", {} attempts", step.attempts) } else { String::new() };
        format!("  step       {}  {}{again}", shown(step.reach_time.as_ref()), state_name(step.state()))
    });
    lines.extend(steps);
    if let Some(deadline) = rotation.retire_deadline_time.as_ref().and_then(time) {
        let (acknowledged, pending) = (rotation.acknowledged_count, rotation.pending_count);
        lines.push(format!(
            "  retires    {deadline} at the latest; {acknowledged} subscribers run the new version, {pending} do not"
        ));
    }
    if let Some(error) = &rotation.last_error {
        lines.push(format!("  error      {}", told(error)));
    }
    lines.join("\n")
}

fn of_target(target: &RotationTarget) -> String {
    let id = |version: &str| version.rsplit('/').next().unwrap_or_default().to_owned();
    let shown = |id: String| if id.is_empty() { "none".to_owned() } else { id };
    let mut text =
        format!("{}  {} -> {}", target.secret, shown(id(&target.previous_version)), shown(id(&target.version)));
    if let Some(error) = &target.last_error {
        text.push_str(&format!("  {}", told(error)));
    }
    text
}

fn starter(rotation: &Rotation) -> String {
    let source = plain(rotation.source().as_str_name(), "ROTATION_SOURCE_");
    if rotation.initiator.is_empty() { source } else { format!("{} ({source})", rotation.initiator) }
}

fn strategy(rotation: &Rotation) -> String {
    plain(rotation.strategy().as_str_name(), "ROTATION_STRATEGY_")
}

fn state(rotation: &Rotation) -> String {
    state_name(rotation.state())
}

fn state_name(state: RotationState) -> String {
    plain(state.as_str_name(), "ROTATION_STATE_")
}

fn to_json(rotation: &Rotation) -> Value {
    let at = |at: Option<&prost_types::Timestamp>| at.and_then(time);
    let error = |error: Option<&keyferry_proto::v1::ErrorDetail>| {
        error.map(|error| json!({ "reason": reason(error), "message": error.message }))
    };
    json!({
        "name": rotation.name,
        "secret": rotation.secret,
        "strategy": strategy(rotation),
        "state": state(rotation),
        "source": plain(rotation.source().as_str_name(), "ROTATION_SOURCE_"),
        "initiator": rotation.initiator,
        "justification": rotation.justification,
        "targets": rotation.targets.iter().map(|target| json!({
            "secret": target.secret,
            "version": target.version,
            "previous_version": target.previous_version,
            "last_error": error(target.last_error.as_ref()),
        })).collect::<Vec<_>>(),
        "steps": rotation.steps.iter().map(|step| json!({
            "state": state_name(step.state()),
            "reach_time": at(step.reach_time.as_ref()),
            "attempts": step.attempts,
        })).collect::<Vec<_>>(),
        "last_error": error(rotation.last_error.as_ref()),
        "create_time": at(rotation.create_time.as_ref()),
        "update_time": at(rotation.update_time.as_ref()),
        "retire_deadline_time": at(rotation.retire_deadline_time.as_ref()),
        "acknowledged_count": rotation.acknowledged_count,
        "pending_count": rotation.pending_count,
        "epoch": rotation.epoch,
        "revision": rotation.revision,
    })
}
