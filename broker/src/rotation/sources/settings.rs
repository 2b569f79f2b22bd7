//! What an operator says of one source of events.

use crate::identity::token::IssuerSettings;
use crate::names::StoreName;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSettings {
    /// Whose secrets it may tell of.
    pub stores: Vec<StoreName>,
    pub source: SourceSettings,
}

impl EventSettings {
    /// Issuers have names, and a source's have its own.
    pub fn name_issuers(&mut self, source: &str) {
        let sender = match &mut self.source {
            SourceSettings::Pull(_) => return,
            SourceSettings::Push(push) => &mut push.sender,
            SourceSettings::EventGrid(sender) => sender,
        };
        for (number, issuer) in (1..).zip(&mut sender.issuers) {
            issuer.name = format!("{source}-{number}");
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSettings {
    Pull(PullSettings),
    Push(PushSettings),
    EventGrid(SenderSettings),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullSettings {
    /// `projects/{project}/subscriptions/{subscription}`
    pub subscription: String,
    /// A name under `[credentials]`.
    pub credential: String,
    pub endpoint: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushSettings {
    pub subscription: String,
    pub sender: SenderSettings,
}

/// Whose tokens a webhook's deliveries must bear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderSettings {
    /// More than one where the sender's tokens come in several forms.
    pub issuers: Vec<IssuerSettings>,
    /// All of them must be met.
    pub demands: Vec<Demand>,
}

/// What a token must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The claim's names; one of them must have the value.
    pub claims: &'static [&'static str],
    pub value: String,
}
