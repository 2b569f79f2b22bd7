//! What may be typed into a sandbox.

use std::time::Duration;

use super::parts::Part;
use crate::doubles::faults::Fault;
use crate::doubles::identity::Flaw;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Fault(Part, Wrong),
    RotateKeys(Issuer),
    /// Whether `latest` stays behind what was added.
    Lag(bool),
    Clear,
    Status,
    Help,
    Quit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    Always(Fault),
    Once(Fault),
    /// In the tokens that it issues.
    Tokens(Flaw),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issuer {
    Google,
    Entra,
    Callers,
}

pub const HELP: &str = "\
fault PART throttle [SECONDS]            429, with Retry-After
fault PART outage | one-400              503 until cleared; 400 to the next request only
fault PART black-hole | slow-body        no answer; an answer without its body
fault PART truncated-body | garbage      half an answer; an answer that is none of the API's
fault PART spill                         500, quoting what should have been the answer
fault gcp wrong-crc                      values that do not match their checksum
fault PART expired-tokens | other-audience   in the tokens that PART issues
rotate-keys google | entra | callers     withdraws the keys, and all tokens that are out
lag latest on | off                      whether Secret Manager's `latest` stays behind
clear | status | help | quit
PART: gcp, azure (the stores); metadata, sts, impersonation, google-keys; imds, entra, entra-keys; callers
";

impl Command {
    /// `None` for an empty line.
    pub fn parse(line: &str) -> Result<Option<Self>, String> {
        let words: Vec<_> = line.split_whitespace().collect();
        let command = match words[..] {
            [] => return Ok(None),
            ["fault", part, ref wrong @ ..] => Self::Fault(Part::named(part)?, Wrong::parse(wrong)?),
            ["rotate-keys", "google"] => Self::RotateKeys(Issuer::Google),
            ["rotate-keys", "entra"] => Self::RotateKeys(Issuer::Entra),
            ["rotate-keys", "callers"] => Self::RotateKeys(Issuer::Callers),
            ["lag", "latest", "on"] => Self::Lag(true),
            ["lag", "latest", "off"] => Self::Lag(false),
            ["clear"] => Self::Clear,
            ["status"] => Self::Status,
            ["help"] => Self::Help,
            ["quit"] => Self::Quit,
            _ => return Err(format!("{line:?} is no command; type help")),
        };
        Ok(Some(command))
    }
}

impl Wrong {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let fault = match *words {
            ["throttle"] => Fault::Throttle { retry_after: None },
            ["throttle", seconds] => {
                let seconds = seconds.parse().map_err(|_| format!("{seconds:?} is no number of seconds"))?;
                Fault::Throttle { retry_after: Some(Duration::from_secs(seconds)) }
            }
            ["outage"] => Fault::Status(503),
            ["black-hole"] => Fault::BlackHole,
            ["slow-body"] => Fault::SlowBody,
            ["truncated-body"] => Fault::TruncatedBody,
            ["garbage"] => Fault::Garbage,
            ["spill"] => Fault::Spill,
            ["wrong-crc"] => Fault::WrongCrc,
            ["one-400"] => return Ok(Self::Once(Fault::Status(400))),
            ["expired-tokens"] => return Ok(Self::Tokens(Flaw::Expired)),
            ["other-audience"] => return Ok(Self::Tokens(Flaw::OtherAudience)),
            _ => return Err(format!("{:?} is no fault; type help", words.join(" "))),
        };
        Ok(Self::Always(fault))
    }
}
