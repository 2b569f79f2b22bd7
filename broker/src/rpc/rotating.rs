//! The part of `RotationService` that rotates.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keyferry_proto::v1::{
    CancelRotationRequest, CancelRotationResponse, GetRotationRequest, GetRotationResponse, ListRotationsRequest,
    ListRotationsResponse, RetireRotationRequest, RetireRotationResponse, RotateSecretRequest, RotateSecretResponse,
    Rotation as RotationMessage,
};

use super::call::Call;
use super::page_token::{Binding, PageTokens, page_size};
use super::rotation_messages::{Standing, rotation_message, state_of};
use super::secret_access::{Wanted, admit};
use super::secret_messages::bad_name;
use crate::admission::{Action, Permit, Resource};
use crate::error::{Failure, Reason};
use crate::names::{RotationName, SecretName};
use crate::requests::RequestId;
use crate::rotation::engine::{Engine, Order, Rotation, check_retirable, no_such_rotation};
use crate::rotation::holders::Tally;
use crate::secrets::Secrets;
use crate::state::Revision;

/// How long an answer waits for the leader to carry out what was decided; it is durable before.
const PATIENCE: Duration = Duration::from_secs(3);
const MAX_JUSTIFICATION: usize = 256;
/// Rotations that one call looks at, when most of them are not for the caller.
const MOST_LOOKED_AT: usize = 10_000;

#[derive(Clone, Debug)]
pub struct Rotating {
    pub engine: Engine,
    pub secrets: Secrets,
    pub page_tokens: Arc<PageTokens>,
}

impl Rotating {
    pub(super) async fn rotate(
        &self,
        call: Call,
        message: RotateSecretRequest,
    ) -> Result<RotateSecretResponse, Failure> {
        let secret = SecretName::parse(&message.name).map_err(bad_name("name"))?;
        check_justification(&message.justification)?;
        let request = RotateSecretRequest { request_id: String::new(), ..message.clone() };
        let request = request_id(&call, &message.request_id, &request)?;
        let permit = self.admit(&call, &secret).await?;
        for fellow in self.engine.fellows(&secret).await? {
            self.admit(&call, &fellow).await?;
        }
        call.draft.note(|record| record.resource = Some(secret.shared()));
        let request = match &request {
            Some(id) => Some(self.engine.remembered(call.caller.id(), id).await?),
            None => None,
        };
        if let Some(answer) = request.as_ref().and_then(|request| request.answer.as_deref()) {
            let earlier = RotationName::parse(answer).map_err(|_| misfit())?;
            let (rotation, revision) = self.engine.find(&earlier).await?;
            return Ok(RotateSecretResponse { rotation: Some(self.message(&rotation, revision).await?) });
        }
        let order = Order {
            request,
            secret,
            initiator: call.caller.id().to_owned(),
            justification: message.justification,
            force: message.force,
        };
        if message.validate_only {
            let plan = self.engine.rehearse(&permit, &order).await?;
            let shown = self.message(&plan, Revision::default()).await?;
            return Ok(RotateSecretResponse { rotation: Some(RotationMessage { name: String::new(), ..shown }) });
        }
        call.announce().await?;
        let (rotation, revision) = self.engine.rotate(&permit, order).await?;
        Ok(RotateSecretResponse { rotation: Some(self.message(&rotation, revision).await?) })
    }

    pub(super) async fn get(&self, call: Call, message: GetRotationRequest) -> Result<GetRotationResponse, Failure> {
        let (rotation, revision, _) = self.permitted(&call, &message.name).await?;
        let tally = self.engine.tally(&rotation).await?;
        let part = Visible::new(self, &call).part(&rotation).await;
        Ok(GetRotationResponse { rotation: Some(self.told(&part, tally, revision)) })
    }

    pub(super) async fn list(
        &self,
        call: Call,
        message: ListRotationsRequest,
    ) -> Result<ListRotationsResponse, Failure> {
        call.meter()?;
        let secret = match message.secret.as_str() {
            "" => None,
            name => Some(SecretName::parse(name).map_err(bad_name("secret"))?),
        };
        let parts = [call.caller.id(), call.method.path, &message.secret, &format!("{:?}", message.states)];
        let binding = Binding::of(&parts);
        let place = self.page_tokens.open(&message.page_token, binding)?;
        let mut below = place.map(|place| RotationName::parse(&place)).transpose().map_err(bad_name("page_token"))?;
        let size = page_size(message.page_size)?;
        let (mut rotations, mut visible, mut looked_at) = (Vec::new(), Visible::new(self, &call), 0);
        loop {
            let found = self.engine.list(below.as_ref(), size.max(50))?;
            let is_last = found.len() < size.max(50);
            for (rotation, revision) in found {
                looked_at += 1;
                let state = i32::from(state_of(rotation.stage()));
                let wanted = (message.states.is_empty() || message.states.contains(&state))
                    && secret.as_ref().is_none_or(|secret| rotation.secrets().contains(secret));
                if wanted && visible.allows(&rotation).await {
                    if rotations.len() == size {
                        let last: &RotationMessage = rotations.last().ok_or_else(misfit)?;
                        let next_page_token = self.page_tokens.seal(&last.name, binding)?;
                        return Ok(ListRotationsResponse { rotations, next_page_token });
                    }
                    let tally = self.engine.tally_lately(&rotation).await?;
                    let part = visible.part(&rotation).await;
                    rotations.push(self.told(&part, tally, revision));
                }
                below = Some(rotation.name.clone());
            }
            if is_last {
                return Ok(ListRotationsResponse { rotations, next_page_token: String::new() });
            }
            if looked_at >= MOST_LOOKED_AT {
                let place = below.as_ref().map(RotationName::as_str).unwrap_or_default();
                let next_page_token = self.page_tokens.seal(place, binding)?;
                return Ok(ListRotationsResponse { rotations, next_page_token });
            }
        }
    }

    pub(super) async fn cancel(
        &self,
        call: Call,
        message: CancelRotationRequest,
    ) -> Result<CancelRotationResponse, Failure> {
        check_justification(&message.justification)?;
        let request = CancelRotationRequest { request_id: String::new(), ..message.clone() };
        let request = request_id(&call, &message.request_id, &request)?;
        let (rotation, _, permits) = self.permitted_all(&call, &message.name).await?;
        if let Some(id) = &request {
            self.engine.remember(call.caller.id(), id).await?;
        }
        call.announce().await?;
        self.engine.cancel(&permits, &rotation.name).await?;
        let (rotation, revision) = self.engine.watch_end(&rotation.name, PATIENCE).await?;
        Ok(CancelRotationResponse { rotation: Some(self.message(&rotation, revision).await?) })
    }

    pub(super) async fn retire(
        &self,
        call: Call,
        message: RetireRotationRequest,
    ) -> Result<RetireRotationResponse, Failure> {
        check_justification(&message.justification)?;
        let request = RetireRotationRequest { request_id: String::new(), ..message.clone() };
        let request = request_id(&call, &message.request_id, &request)?;
        let (rotation, revision, permits) = self.permitted_all(&call, &message.name).await?;
        if message.validate_only {
            check_retirable(&rotation)?;
            return Ok(RetireRotationResponse { rotation: Some(self.message(&rotation, revision).await?) });
        }
        if let Some(id) = &request {
            self.engine.remember(call.caller.id(), id).await?;
        }
        call.announce().await?;
        self.engine.retire(&permits, &rotation.name).await?;
        let (rotation, revision) = self.engine.watch_end(&rotation.name, PATIENCE).await?;
        Ok(RetireRotationResponse { rotation: Some(self.message(&rotation, revision).await?) })
    }

    /// The rotation, for a caller who may do the call's own action. Denied and absent are answered alike.
    async fn permitted(&self, call: &Call, name: &str) -> Result<(Rotation, Revision, Permit), Failure> {
        let name = RotationName::parse(name).map_err(bad_name("name"))?;
        call.draft.note(|record| record.resource = Some(name.shared()));
        let (rotation, revision) = self.engine.find(&name).await?;
        let secret = rotation.targets.first().map(|target| target.secret.clone()).ok_or_else(misfit)?;
        let permit = self.admit(call, &secret).await.map_err(hidden(&name))?;
        Ok((rotation, revision, permit))
    }

    /// For what is done to all of its secrets.
    async fn permitted_all(&self, call: &Call, name: &str) -> Result<(Rotation, Revision, Vec<Permit>), Failure> {
        let (rotation, revision, permit) = self.permitted(call, name).await?;
        let mut permits = vec![permit];
        for fellow in rotation.targets.iter().skip(1) {
            permits.push(self.admit(call, &fellow.secret).await.map_err(hidden(&rotation.name))?);
        }
        call.draft.note(|record| record.resource = Some(rotation.name.shared()));
        Ok((rotation, revision, permits))
    }

    async fn admit(&self, call: &Call, secret: &SecretName) -> Result<Permit, Failure> {
        admit(&self.secrets, call, Wanted { secret, wrong: Ok(()), creation: None }).await
    }

    async fn message(&self, rotation: &Rotation, revision: Revision) -> Result<RotationMessage, Failure> {
        Ok(self.told(rotation, self.engine.tally(rotation).await?, revision))
    }

    fn told(&self, rotation: &Rotation, tally: Tally, revision: Revision) -> RotationMessage {
        rotation_message(rotation, Standing { tally, revision, epoch: self.engine.epoch() })
    }
}

/// Decisions about secrets, each asked once a call.
struct Visible<'a> {
    rotating: &'a Rotating,
    call: &'a Call,
    decided: HashMap<SecretName, bool>,
}

impl<'a> Visible<'a> {
    fn new(rotating: &'a Rotating, call: &'a Call) -> Self {
        Self { rotating, call, decided: HashMap::new() }
    }

    async fn allows(&mut self, rotation: &Rotation) -> bool {
        match rotation.targets.first() {
            Some(first) => self.allows_secret(&first.secret).await,
            None => false,
        }
    }

    /// With those of its secrets that the caller may see.
    async fn part(&mut self, rotation: &Rotation) -> Rotation {
        let mut part = rotation.clone();
        part.targets.clear();
        for target in &rotation.targets {
            if self.allows_secret(&target.secret).await {
                part.targets.push(target.clone());
            }
        }
        part
    }

    async fn allows_secret(&mut self, secret: &SecretName) -> bool {
        if let Some(decided) = self.decided.get(secret) {
            return *decided;
        }
        // A secret whose labels cannot be looked at is left out.
        let labels = match self.call.inquire(Action::GetRotation).reads_labels() {
            true => self.rotating.secrets.labels(secret).await.map(Option::unwrap_or_default).ok(),
            false => Some(Default::default()),
        };
        let resource = labels.map(|labels| Resource::Secret(secret.clone(), labels));
        let allowed = resource.is_some_and(|resource| self.call.may(Action::GetRotation, &resource));
        self.decided.insert(secret.clone(), allowed);
        allowed
    }
}

fn hidden(name: &RotationName) -> impl Fn(Failure) -> Failure {
    move |failure| {
        let is_hidden = matches!(failure.reason(), Reason::AccessDenied | Reason::SecretNotFound);
        if is_hidden { no_such_rotation(name) } else { failure }
    }
}

/// Two calls are the same when their methods and all other fields are.
fn request_id(call: &Call, id: &str, rest: &impl prost::Message) -> Result<Option<RequestId>, Failure> {
    RequestId::parse(id, &[call.method.path.as_bytes(), &rest.encode_to_vec()])
}

fn check_justification(text: &str) -> Result<(), Failure> {
    if text.chars().count() <= MAX_JUSTIFICATION {
        return Ok(());
    }
    let description = format!("is longer than {MAX_JUSTIFICATION} characters; shorten it");
    Err(Failure::bad_field(Reason::InvalidArgument, "justification", description))
}

fn misfit() -> Failure {
    Failure::new(Reason::Internal, "a rotation has no target; report this")
}
