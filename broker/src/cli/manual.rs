//! `keyferry completions` and `keyferry man`: what the commands say of themselves, for shells and for man.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, ValueEnum};
use clap_complete::Shell;

use super::failure::Exit;
use super::{Cli, Complaint, hand_over, say};

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    shell: Known,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Known {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Where the pages go, for example /usr/local/share/man/man1
    directory: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<ExitCode, Complaint> {
    let shell = match args.shell {
        Known::Bash => Shell::Bash,
        Known::Zsh => Shell::Zsh,
        Known::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "keyferry", &mut script);
    hand_over(&script)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man(args: &ManArgs) -> Result<ExitCode, Complaint> {
    let failed = |error| format!("cannot write to {}: {error}", args.directory.display());
    std::fs::create_dir_all(&args.directory).map_err(failed)?;
    clap_mangen::generate_to(Cli::command().after_help(exit_codes()), &args.directory).map_err(failed)?;
    say(&format!("wrote keyferry.1 and a page for each verb to {}", args.directory.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn exit_codes() -> String {
    let lines = Exit::ALL.iter().map(|(exit, meaning)| format!("{}  {meaning}", *exit as u8));
    format!("Exit codes:\n\n{}", lines.collect::<Vec<_>>().join("\n\n"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Command;

    use super::*;

    const BEGIN: &str =
        "<!-- made from the command itself: KEYFERRY_REGENERATE=1 cargo test -p keyferry-broker --lib -- manual -->\n";
    const END: &str = "<!-- end -->\n";

    /// Each verb that does something, with all words that lead to it.
    fn verbs(command: &Command, said: &str) -> Vec<(String, String)> {
        let below: Vec<_> = command.get_subcommands().filter(|verb| verb.get_name() != "help").collect();
        if below.is_empty() {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            return vec![(said.to_owned(), about)];
        }
        below.into_iter().flat_map(|verb| verbs(verb, format!("{said} {}", verb.get_name()).trim_start())).collect()
    }

    /// The tables between the marks in `docs/cli.md`.
    fn reference() -> String {
        let mut text = String::from("\n| verb | |\n|---|---|\n");
        for (verb, about) in verbs(&Cli::command(), "") {
            text.push_str(&format!("| `{verb}` | {about} |\n"));
        }
        text.push_str("\n| exit code | |\n|---|---|\n| 0 | done |\n");
        for (exit, meaning) in Exit::ALL {
            text.push_str(&format!("| {} | {meaning} |\n", exit as u8));
        }
        text + "\n"
    }

    #[test]
    fn the_guide_has_every_verb_and_every_exit_code() {
        let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
        let text = std::fs::read_to_string(&guide).unwrap();
        let (before, rest) = text.split_once(BEGIN).unwrap();
        let (_, after) = rest.split_once(END).unwrap();
        let fresh = format!("{before}{BEGIN}{}{END}{after}", reference());
        if std::env::var_os("KEYFERRY_REGENERATE").is_some() {
            std::fs::write(&guide, &fresh).unwrap();
        }
        assert!(
            fresh == text || std::env::var_os("KEYFERRY_REGENERATE").is_some(),
            "docs/cli.md is behind its commands"
        );
    }

    #[test]
    fn the_tree_of_commands_is_sound_and_every_option_says_what_it_does() {
        fn check(command: &Command) {
            for argument in command.get_arguments() {
                let told = argument.get_help().is_some() || argument.is_positional();
                assert!(told, "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        Cli::command().debug_assert();
        check(&Cli::command());
    }
}
