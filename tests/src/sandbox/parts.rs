//! The parts that can be broken, and what a command does to them.

use std::fmt::Write as _;

use super::Clouds;
use super::command::{Command, HELP, Issuer, Wrong};
use crate::doubles::faults::Faults;
use crate::doubles::identity::{EntraService, GoogleService, Service};
use crate::doubles::secret_manager::Lag;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Gcp,
    Azure,
    Google(GoogleService),
    Entra(EntraService),
    Callers,
}

impl Part {
    const ALL: [(&str, Self); 10] = [
        ("gcp", Self::Gcp),
        ("azure", Self::Azure),
        ("metadata", Self::Google(GoogleService::Metadata)),
        ("sts", Self::Google(GoogleService::Sts)),
        ("impersonation", Self::Google(GoogleService::IamCredentials)),
        ("google-keys", Self::Google(GoogleService::Discovery)),
        ("imds", Self::Entra(EntraService::Imds)),
        ("entra", Self::Entra(EntraService::Token)),
        ("entra-keys", Self::Entra(EntraService::Discovery)),
        ("callers", Self::Callers),
    ];

    pub(super) fn named(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, part)| part);
        found.ok_or_else(|| format!("{name:?} is no part; type help"))
    }
}

impl Clouds {
    /// Does it, and says what is so now.
    pub fn obey(&self, command: Command) -> String {
        match command {
            Command::Fault(part, wrong) => return self.spoil(part, wrong),
            Command::RotateKeys(Issuer::Google) => {
                self.google.rotate_keys();
                self.google.revoke_all();
            }
            Command::RotateKeys(Issuer::Entra) => self.entra.rotate_keys(),
            Command::RotateKeys(Issuer::Callers) => self.callers.rotate_keys(),
            Command::Lag(on) => self.secret_manager.set_lag(if on { Lag::Lasting } else { Lag::None }),
            Command::Clear => self.heal(),
            Command::Status => return self.status(),
            Command::Help => return HELP.to_owned(),
            Command::Quit => {}
        }
        "done".to_owned()
    }

    fn spoil(&self, part: Part, wrong: Wrong) -> String {
        match (wrong, self.service(part)) {
            (Wrong::Always(fault), _) => self.faults(part).set(fault),
            (Wrong::Once(fault), _) => self.faults(part).set_for(fault, 1),
            (Wrong::Tokens(flaw), Some(service)) => service.flaw(flaw),
            (Wrong::Tokens(_), None) => return "a store issues no tokens; type help".to_owned(),
        }
        "done".to_owned()
    }

    fn heal(&self) {
        for (_, part) in Part::ALL {
            self.faults(part).clear();
            self.service(part).into_iter().for_each(Service::heal);
        }
        self.secret_manager.set_lag(Lag::None);
    }

    fn status(&self) -> String {
        let mut text = String::new();
        for (name, part) in Part::ALL {
            let requests = match (part, self.service(part)) {
                (_, Some(service)) => service.requests(),
                (Part::Azure, None) => self.key_vault.requests(),
                (_, None) => self.secret_manager.requests(),
            };
            let wrong = self.faults(part).current().map_or_else(|| "well".to_owned(), |fault| format!("{fault:?}"));
            let flaw = self.service(part).and_then(Service::current_flaw).map(|flaw| format!(", tokens: {flaw:?}"));
            let _ = writeln!(text, "{name:14} {requests:6} requests, {wrong}{}", flaw.unwrap_or_default());
        }
        text
    }

    fn faults(&self, part: Part) -> &Faults {
        match (part, self.service(part)) {
            (_, Some(service)) => service.faults(),
            (Part::Azure, None) => self.key_vault.faults(),
            (_, None) => self.secret_manager.faults(),
        }
    }

    fn service(&self, part: Part) -> Option<&Service> {
        match part {
            Part::Gcp | Part::Azure => None,
            Part::Google(service) => Some(self.google.service(service)),
            Part::Entra(service) => Some(self.entra.service(service)),
            Part::Callers => Some(self.callers.discovery()),
        }
    }
}
