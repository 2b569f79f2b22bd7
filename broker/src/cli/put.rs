//! `keyferry put`

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use keyferry_proto::v1::AddSecretVersionRequest;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde_json::json;
use zeroize::Zeroizing;

use super::connection::{Asking, block_on};
use super::failure::Failure;
use super::text::label;
use super::{Complaint, names, say_error};

/// More than any store takes; what is larger was piped in by mistake.
const LARGEST: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    asking: Asking,
    /// STORE/SECRET, or its whole name
    secret: String,
    /// Where the value is, byte for byte; without it, or with -, standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Create the secret if there is none
    #[arg(long)]
    create: bool,
    /// A label of the secret that is created
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label, requires = "create")]
    labels: Vec<(String, String)>,
    /// See whether it would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Complaint> {
    let answer = block_on(async {
        let broker = args.asking.connect().await?;
        let payload = payload(args.file.as_deref()).await?;
        let request = AddSecretVersionRequest {
            parent: names::secret(&args.secret),
            payload_crc32c: Some(crc32c::crc32c(&payload).into()),
            payload: payload.to_vec().into(),
            allow_missing: args.create,
            labels: args.labels.iter().cloned().collect(),
            validate_only: args.dry_run,
            ..AddSecretVersionRequest::default()
        };
        broker.ask(request).await
    })?;
    let name = answer.version.unwrap_or_default().name;
    args.asking.tell(
        || json!({ "name": name, "epoch": answer.epoch, "revision": answer.revision, "dry_run": args.dry_run }),
        || if args.dry_run { format!("would add {name}") } else { format!("added {name}") },
    )?;
    Ok(ExitCode::SUCCESS)
}

async fn payload(file: Option<&Path>) -> Result<Zeroizing<Vec<u8>>, Complaint> {
    let mut payload = Zeroizing::new(Vec::new());
    match file.filter(|file| *file != Path::new("-")) {
        Some(file) => {
            let unreadable = |error| Failure::usage(format!("cannot read {}: {error}", file.display()));
            std::fs::File::open(file)
                .map_err(unreadable)?
                .take(LARGEST + 1)
                .read_to_end(&mut payload)
                .map_err(unreadable)?;
        }
        None if std::io::stdin().is_terminal() => {
            typed(&mut payload).await?;
        }
        None => {
            std::io::stdin().take(LARGEST + 1).read_to_end(&mut payload)?;
            if payload.ends_with(b"\n") && payload.iter().filter(|&&byte| byte == b'\n').count() == 1 {
                say_error("note: the value ends with a newline, which is kept");
            }
        }
    }
    match u64::try_from(payload.len()) {
        Ok(0) => Err(Failure::usage("the value is empty; nothing was added").into()),
        Ok(1..=LARGEST) => Ok(payload),
        _ => Err(Failure::usage("the value is larger than 1 MiB; nothing was added").into()),
    }
}

/// One line, which the terminal does not show; it is as it was afterwards, also where nothing is typed after all.
async fn typed(payload: &mut Vec<u8>) -> Result<(), Complaint> {
    let shown = tcgetattr(std::io::stdin().as_fd())?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(std::io::stdin().as_fd(), OptionalActions::Flush, &hidden)?;
    write!(std::io::stderr(), "Value (not shown): ")?;
    let (sender, typed) = tokio::sync::oneshot::channel();
    // A thread of its own: what waits for a terminal cannot be stopped.
    std::thread::spawn(move || {
        let mut line = Zeroizing::new(String::new());
        let _ = sender.send(std::io::stdin().read_line(&mut line).map(|_| line));
    });
    let line = tokio::select! {
        typed = typed => Some(typed),
        _ = tokio::signal::ctrl_c() => None,
    };
    tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &shown)?;
    writeln!(std::io::stderr())?;
    let line = line.ok_or("interrupted; nothing was added")???;
    payload.extend_from_slice(line.trim_end_matches('\n').as_bytes());
    Ok(())
}
