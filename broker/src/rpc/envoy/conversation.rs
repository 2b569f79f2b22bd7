//! One open stream: what an Envoy wants, what it was sent, and what it made of that.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tonic::Status;

use super::super::call::{Call, unrecorded};
use super::follower::Follower;
use super::messages::{Asked, Names, Published, check_type, version_info};
use super::offers::{Judged, Offer};
use super::{EnvoyRpc, check_count, check_lengths};
use crate::audit::{Decision, Receipt, Record};
use crate::digest::Digest;
use crate::error::{Failure, Reason};
use crate::gateway::sds::{Rejection, Seat};
use crate::names::SecretName;
use crate::rotation::watch::Place;
use crate::state::Position;
use crate::status::ReasonExt as _;

/// How often a stream looks at what nobody tells it of: policies, and a store that was out.
const TICK: Duration = Duration::from_secs(5);
/// Ticks that a response may go unanswered; Envoy answers at once.
const PATIENCE: u32 = 12;
/// Changes of the log looked at in one go.
const READ: usize = 64;

pub(super) struct Conversation {
    rpc: EnvoyRpc,
    call: Call,
    /// What each of its records begins with.
    record: Record,
    asked: BoxStream<'static, Result<Asked, Status>>,
    node: String,
    wanted: BTreeMap<String, Wanted>,
    /// What is to be looked at again.
    due: BTreeSet<String>,
    /// The last response, until it is answered. No other is sent meanwhile: what changes is gathered.
    unanswered: Option<Vec<Sent>>,
    /// For so many ticks.
    waiting: u32,
    /// Of the last response; they count from 1.
    nonce: u64,
    head: watch::Receiver<Option<Position>>,
    at: Option<Position>,
    policies: Digest,
    follower: Follower,
    tick: Interval,
    _place: Place,
}

/// A stream whose first answer waits for the call to be on record.
pub(super) struct Opened {
    conversation: Conversation,
    offers: Vec<Offer>,
}

/// What is known of one name.
#[derive(Default)]
struct Wanted {
    /// Once the caller was found to be permitted.
    seat: Option<Seat>,
    sent: Option<String>,
    accepted: Option<String>,
    /// Why it is not served at all.
    refusal: Option<Failure>,
    /// Why it was not served when it was last looked at.
    trouble: Option<Reason>,
    /// What it was offered then is not the newest.
    is_held_back: bool,
}

struct Sent {
    name: String,
    version: String,
    versions: Vec<(SecretName, Arc<str>)>,
}

/// What came of looking at all that was due.
struct Round {
    offers: Vec<Offer>,
    record: Record,
    /// Something was refused that was not before.
    trouble: Option<Reason>,
    /// Nothing that the Envoy wants is served.
    end: Option<Failure>,
}

impl Conversation {
    /// Hears the first request, and judges what it asks for.
    pub(super) async fn open(
        rpc: EnvoyRpc,
        call: Call,
        mut asked: BoxStream<'static, Result<Asked, Status>>,
    ) -> Result<Opened, Failure> {
        let Some(Ok(first)) = asked.next().await else { return Err(unreadable()) };
        let mut record = Record::default();
        call.draft.note(|opening| record = opening.clone());
        let log = rpc.watches.log();
        let (mut head, follower) = (log.watcher(), Follower::new(&rpc.watches, &call));
        let at = *head.borrow_and_update();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        let mut conversation = Self {
            policies: call.gate.policies().current().hash(),
            _place: rpc.watches.enter(call.caller.shared_id())?,
            rpc,
            call,
            record,
            asked,
            node: String::new(),
            wanted: BTreeMap::new(),
            due: BTreeSet::new(),
            unanswered: None,
            waiting: 0,
            nonce: 0,
            head,
            at,
            follower,
            tick,
        };
        conversation.hear(first)?;
        let round = conversation.look().await;
        conversation.call.draft.note(|record| {
            (record.resource, record.items) = (round.record.resource, round.record.items);
            (record.decision, record.policy) = (round.record.decision, round.record.policy);
        });
        match round.end {
            Some(failure) => Err(failure),
            None => Ok(Opened { conversation, offers: round.offers }),
        }
    }

    /// What is to be sent next. `None`: the Envoy has ended it. A failure is the stream's end.
    pub(super) async fn next(&mut self) -> Result<Option<Published>, Failure> {
        loop {
            if self.unanswered.is_none()
                && !self.due.is_empty()
                && let Some(published) = self.publish_due().await?
            {
                return Ok(Some(published));
            }
            if let Some(at) = self.at.filter(|_| self.due.is_empty() && self.unanswered.is_none()) {
                self.follower.sent(at);
            }
            tokio::select! {
                asked = self.asked.next() => match asked {
                    Some(Ok(asked)) => self.hear(asked)?,
                    Some(Err(_)) => return Err(unreadable()),
                    None => {
                        // Its last word counts, too.
                        self.follower.finish().await;
                        return Ok(None);
                    }
                },
                () = self.follower.record() => {}
                // A log that has ended stops telling; whoever stops the broker ends the stream.
                Ok(()) = self.head.changed() => self.read_log(),
                _ = self.tick.tick() => self.look_around()?,
            }
        }
    }

    fn hear(&mut self, asked: Asked) -> Result<(), Failure> {
        check_type(&asked.type_url)?;
        match &asked.names {
            Names::All(names) => check_lengths(names)?,
            Names::Changed { more, less } => check_lengths(more.iter().chain(less))?,
        }
        if self.node.is_empty() {
            self.node = asked.node;
        }
        let has = if self.nonce == 0 { asked.has } else { BTreeMap::new() };
        let is_answer = self.nonce > 0 && asked.nonce == self.nonce.to_string();
        if is_answer && let Some(sent) = self.unanswered.take() {
            self.settle(sent, asked.refusal.as_deref());
        }
        match asked.names {
            Names::All(names) if is_answer || self.nonce == 0 => {
                let names: BTreeSet<_> = names.into_iter().collect();
                self.wanted.retain(|name, _| names.contains(name));
                for name in names.into_iter().filter(|name| !self.wanted.contains_key(name)).collect::<Vec<_>>() {
                    self.want(name, &has);
                }
            }
            // It was written before our last response came, whose answer will name all that is wanted.
            Names::All(_) => {}
            Names::Changed { more, less } => {
                less.iter().for_each(|name| drop(self.wanted.remove(name)));
                // Who asks again for what it has wants it sent again.
                more.into_iter().for_each(|name| self.want(name, &has));
            }
        }
        check_count(self.wanted.len())?;
        self.follow();
        Ok(())
    }

    fn want(&mut self, name: String, has: &BTreeMap<String, String>) {
        let wanted = self.wanted.entry(name.clone()).or_default();
        (wanted.sent, wanted.accepted) = (has.get(&name).cloned(), has.get(&name).cloned());
        self.due.insert(name);
    }

    /// An ACK acknowledges. After a NACK nothing is sent again until there is something else to send.
    fn settle(&mut self, sent: Vec<Sent>, refusal: Option<&str>) {
        for Sent { name, version, versions } in sent {
            let Some(wanted) = self.wanted.get_mut(&name) else { continue };
            if let Some(why) = refusal {
                if let Some(seat) = &wanted.seat {
                    let (caller, node) = (self.call.caller.shared_id(), self.node.clone());
                    let at = self.call.clock.now();
                    seat.rejected(Rejection { caller, node, version, why: why.to_owned(), at });
                }
                self.follower.refused(versions, why);
            } else {
                wanted.accepted = Some(version);
                if let Some(seat) = &wanted.seat {
                    seat.accepted();
                }
                self.follower.took(versions);
            }
        }
    }

    async fn publish_due(&mut self) -> Result<Option<Published>, Failure> {
        let Round { offers, record, trouble, end } = self.look().await;
        let outcome = end.as_ref().map(Failure::reason).or(trouble).filter(|_| offers.is_empty());
        if offers.is_empty() && outcome.is_none() {
            return Ok(None);
        }
        let settled = self.call.draft.follow_up(record).settle(outcome.map_or("OK", Reason::name)).await;
        if let Some(failure) = end {
            return Err(failure);
        }
        match settled {
            Some(Ok(receipt)) if !offers.is_empty() => Ok(Some(self.publish(&offers, &receipt))),
            Some(Err(unavailable)) => Err(unrecorded(unavailable)),
            Some(Ok(_)) | None => Ok(None),
        }
    }

    async fn look(&mut self) -> Round {
        let due = take(&mut self.due);
        let mut round = Round { offers: Vec::new(), record: self.record.clone(), trouble: None, end: None };
        round.record.resource = Some(due.iter().map(String::as_str).collect::<Vec<_>>().join(" ").into());
        for name in due {
            let Some(wanted) = self.wanted.get_mut(&name) else { continue };
            let judged = self.rpc.judge(&self.call, &name).await;
            let is_known = match &judged.result {
                Ok(offer) => wanted.sent.as_ref() == Some(&offer.version),
                Err(failure) => wanted.trouble == Some(failure.reason()),
            };
            judged.note(&mut round.record, !is_known);
            match judged {
                Judged { result: Ok(offer), is_held_back, .. } => {
                    wanted.serve(&self.rpc, &offer);
                    wanted.is_held_back = is_held_back;
                    if !is_known {
                        round.offers.push(offer);
                    } else if wanted.accepted == wanted.sent {
                        self.follower.took(offer.versions);
                    }
                }
                Judged { result: Err(failure), .. } => {
                    round.trouble = round.trouble.or(Some(failure.reason()).filter(|_| !is_known));
                    wanted.refuse(failure);
                }
            }
        }
        self.follow();
        let refusals = || self.wanted.values().map(|wanted| wanted.refusal.as_ref());
        if !self.wanted.is_empty() && refusals().all(|refusal| refusal.is_some()) {
            round.end = refusals().flatten().next().cloned();
        }
        if !round.offers.is_empty() {
            round.record.decision = Decision::Allow;
        }
        round
    }

    fn publish(&mut self, offers: &[Offer], receipt: &Receipt) -> Published {
        self.nonce += 1;
        let mut sent = Vec::with_capacity(offers.len());
        let mut resources = Vec::with_capacity(offers.len());
        for offer in offers {
            self.rpc.board.published(&offer.name);
            resources.push(offer.disclose(receipt));
            let (name, version) = (offer.name.to_string(), offer.version.clone());
            if let Some(wanted) = self.wanted.get_mut(&name) {
                wanted.sent = Some(version.clone());
            }
            sent.push(Sent { name, version, versions: offer.versions.clone() });
        }
        // What an Envoy has once it accepts this: the rest as it accepted it before.
        let has = self.wanted.iter().filter_map(|(name, wanted)| {
            let is_sent = sent.iter().any(|sent| sent.name == *name);
            let version = if is_sent { &wanted.sent } else { &wanted.accepted };
            Some((name.as_str(), version.as_deref()?))
        });
        let version = version_info(has);
        self.unanswered = Some(sent);
        self.waiting = 0;
        Published { nonce: self.nonce.to_string(), version, resources }
    }

    /// Marks what changed since the stream last looked.
    fn read_log(&mut self) {
        let Some(head) = *self.head.borrow_and_update() else { return };
        let Some(mut at) = self.at.replace(head) else { return self.look_at_all() };
        loop {
            match self.rpc.watches.log().after(at, READ) {
                // What was missed may be of any of them.
                Err(_) => return self.look_at_all(),
                Ok(changes) if changes.is_empty() => return,
                Ok(changes) => {
                    for change in changes {
                        at.revision = change.revision;
                        change.events.iter().for_each(|event| self.look_at(&event.secret));
                    }
                }
            }
        }
    }

    fn look_around(&mut self) -> Result<(), Failure> {
        self.follower.retry();
        if self.unanswered.is_some() {
            self.waiting += 1;
            if self.waiting > PATIENCE {
                let message = "the last response was neither accepted nor refused for a minute, and nothing is judged meanwhile; \
                               connect anew";
                return Err(Failure::new(Reason::DeadlineExceeded, message));
            }
        }
        let policies = self.call.gate.policies().current().hash();
        if policies != self.policies {
            self.policies = policies;
            self.look_at_all();
        }
        let failing = self.wanted.iter().filter(|(_, wanted)| wanted.trouble.is_some() || wanted.is_held_back);
        self.due.extend(failing.map(|(name, _)| name.clone()));
        Ok(())
    }

    fn look_at(&mut self, secret: &SecretName) {
        for name in self.wanted.keys() {
            if self.rpc.board.resource(name).is_some_and(|(_, resource)| resource.secrets().any(|own| own == secret)) {
                self.due.insert(name.clone());
            }
        }
    }

    fn look_at_all(&mut self) {
        self.follower.begin_anew();
        self.due.extend(self.wanted.keys().cloned());
    }

    /// Retirement waits for this Envoy, of the secrets that it may have.
    fn follow(&mut self) {
        let served = self.wanted.iter().filter(|(_, wanted)| wanted.seat.is_some());
        let served = served.filter_map(|(name, _)| self.rpc.board.resource(name));
        self.follower.follow(&self.node, served);
    }
}

impl Opened {
    /// The first message, where there is one to send, and what follows.
    pub(super) fn begin(mut self, receipt: &Receipt) -> (Option<Published>, Conversation) {
        let first = (!self.offers.is_empty()).then(|| self.conversation.publish(&self.offers, receipt));
        (first, self.conversation)
    }
}

impl Wanted {
    fn serve(&mut self, rpc: &EnvoyRpc, offer: &Offer) {
        (self.refusal, self.trouble) = (None, None);
        self.seat.get_or_insert_with(|| rpc.board.enter(&offer.name));
    }

    /// Who has a value keeps it through an outage, and through a bad successor. It is told when it lost the right to it.
    fn refuse(&mut self, failure: Failure) {
        self.trouble = Some(failure.reason());
        if failure.reason() == Reason::AccessDenied {
            self.seat = None;
        }
        self.refusal = Some(failure).filter(|_| self.sent.is_none() || self.seat.is_none());
    }
}

fn unreadable() -> Failure {
    let message = "the request did not come or could not be decoded; check that this is a stream of Envoy's xDS, v3";
    Failure::new(Reason::InvalidArgument, message)
}
