use std::process::Stdio;
use std::sync::Arc;

use tokio::process::Command;
use zeroize::Zeroizing;

use super::TokenError;

/// A program that prints a token.
pub(super) struct TokenCommand {
    program: String,
    arguments: Vec<String>,
}

/// A token has at most 8 KiB.
const LONGEST: usize = 64 * 1024;

impl TokenCommand {
    pub(super) fn new(words: Vec<String>) -> Result<Self, TokenError> {
        let mut words = words.into_iter();
        match words.next() {
            Some(program) => Ok(Self { program, arguments: words.collect() }),
            None => {
                let problem = "it is empty; name a program that prints a token".to_owned();
                Err(TokenError::Source { place: "the command".to_owned(), problem })
            }
        }
    }

    pub(super) fn place(&self) -> String {
        // Its arguments may be nobody's business.
        format!("the command {}", self.program)
    }

    pub(super) async fn run(self: Arc<Self>) -> Result<Zeroizing<String>, TokenError> {
        let problem = |problem| TokenError::Source { place: self.place(), problem };
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let output = command.kill_on_drop(true).output().await;
        let output = output.map_err(|error| problem(format!("it cannot be run ({})", error.kind())))?;
        let printed = Zeroizing::new(output.stdout);
        if !output.status.success() {
            return Err(problem(format!("it ended with {}; run it by hand to see why", output.status)));
        }
        match str::from_utf8(&printed) {
            Ok(text) if text.len() <= LONGEST => Ok(Zeroizing::new(text.trim().to_owned())),
            _ => Err(problem("what it printed is no token; it must print one line, the token itself".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(words: &[&str]) -> Result<String, String> {
        let command = TokenCommand::new(words.iter().map(ToString::to_string).collect());
        let token = Arc::new(command.map_err(|error| error.to_string())?).run().await;
        token.map(|token| token.to_string()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn what_it_prints_is_the_token() {
        assert_eq!(told(&["echo", "a.b.c"]).await, Ok("a.b.c".to_owned()));
    }

    #[tokio::test]
    async fn a_command_that_fails_is_told_without_what_it_said() {
        let failed = told(&["sh", "-c", "echo hunter2; echo hunter2 >&2; exit 3"]).await.unwrap_err();
        assert_eq!(failed, "no token from the command sh: it ended with exit status: 3; run it by hand to see why");
        let absent = told(&["/absent/token"]).await.unwrap_err();
        assert_eq!(absent, "no token from the command /absent/token: it cannot be run (entity not found)");
        assert!(told(&[]).await.unwrap_err().contains("name a program"));
    }
}
