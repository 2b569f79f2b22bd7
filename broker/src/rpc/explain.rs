//! `ExplainAccess`: the checks that a call would meet, one finding each, without making the call.

mod findings;

use std::sync::Arc;

use keyferry_proto::v1::explain_access_request::Subject;
use keyferry_proto::v1::{
    AccessDecision, AccessFinding, AccessStage, DescribedCaller, ExaminedToken, ExplainAccessRequest,
    ExplainAccessResponse, PolicyEffect, PolicyReference,
};
use serde_json::Value as Json;

use super::call::{Call, decided};
use super::caller_message::{
    caller_message, described_certificate, facts_message, json_of_struct, profile_message, token_message,
};
use super::operator::OperatorRpc;
use super::secret_messages::printable;
use crate::admission::{
    Action, CertificateFacts, Circumstances, DescribedCertificate, Description, Explanation, Profile, Resource,
    TokenFacts, Weighed,
};
use crate::error::{Failure, Reason};
use crate::identity::token::{Rejection, Token};
use crate::names::{RoleName, SecretName, StoreName};
use crate::secrets::Labels;
use crate::suggestion::nearest;

/// What is told of a policy to a caller who may ask about itself only.
const WITHHELD: &str = "a condition of it does not hold; who may ExplainAccess is told which";

/// Whose access is explained.
enum Who {
    /// The caller's own.
    Oneself,
    Described(Box<Description>),
    Examined(Arc<Token>, Option<Box<DescribedCertificate>>),
}

impl OperatorRpc {
    pub(super) async fn explain(
        &self,
        call: &Call,
        request: ExplainAccessRequest,
    ) -> Result<ExplainAccessResponse, Failure> {
        let asked = if request.subject.is_some() { Action::ExplainAccess } else { Action::ExplainSelf };
        admit(call, asked)?;
        // Whoever may ask about others could describe itself and be told everything.
        let openly = asked == Action::ExplainAccess || call.may(Action::ExplainAccess, &Resource::Broker);
        let policies = call.gate.policies().current();
        let mut answer = ExplainAccessResponse {
            decision: AccessDecision::Deny.into(),
            policy_hash: policies.hash().to_string(),
            ..ExplainAccessResponse::default()
        };
        let Some(who) = self.identify(call, request.subject, &mut answer).await? else {
            return Ok(answer);
        };
        let profile = who.profile(call);
        call.draft.note(|record| {
            if asked == Action::ExplainAccess {
                record.resource = Some(format!("callers/{}", printable(profile.id)).into());
            }
        });
        let Some((action, resource)) = asked_for(&request.action, &request.resource, &mut answer) else {
            return Ok(answer);
        };
        let circumstances = Circumstances { now: call.clock.now(), peer: call.peer.ip() };
        let decide = |action, resource: &Resource| policies.explain(&profile, action, resource, circumstances);
        let allows = |action, resource: &Resource| decide(action, resource).is_ok_and(|decision| decision.allowed);
        let resource = self.as_seen(action, resource, openly, allows, &mut answer).await;
        let hidden = match &resource {
            Resource::Secret(secret, labels) if !labels.is_empty() => {
                let bare = Resource::Secret(secret.clone(), Labels::default());
                !allows(action, &resource) && allows(action, &bare)
            }
            Resource::Secret(..) | Resource::Store(_) | Resource::DatabaseRole(_) | Resource::Broker => false,
        };
        let explanation = match decide(action, &resource) {
            Ok(explanation) => explanation,
            Err(error) => {
                let finding = findings::misfit(action, &resource, &error);
                refuse(&mut answer, Reason::InvalidArgument, finding);
                return Ok(answer);
            }
        };
        answer.findings.push(findings::policy(&explanation, openly, policies.reads_context(action)));
        answer.findings.extend(findings::quota(call, profile.id, action));
        tell(&mut answer, explanation, openly, hidden);
        Ok(answer)
    }

    /// `None`: the credential would be refused, and the answer says why.
    async fn identify(
        &self,
        call: &Call,
        subject: Option<Subject>,
        answer: &mut ExplainAccessResponse,
    ) -> Result<Option<Who>, Failure> {
        match subject {
            None => {
                answer.caller = Some(caller_message(&call.caller));
                answer.findings.extend(findings::own(&call.caller, call.clock.now()));
                Ok(Some(Who::Oneself))
            }
            Some(Subject::DescribedCaller(described)) => self.describe(&described, answer),
            Some(Subject::ExaminedToken(examined)) => self.examine(call, &examined, answer).await,
        }
    }

    fn describe(
        &self,
        described: &DescribedCaller,
        answer: &mut ExplainAccessResponse,
    ) -> Result<Option<Who>, Failure> {
        let bad = |description| Failure::bad_field(Reason::InvalidArgument, "described_caller", description);
        let certificate = described.certificate.as_ref().map(described_certificate).transpose().map_err(bad)?;
        let mut claims = described.claims.as_ref().map_or_else(|| Json::Object(Default::default()), json_of_struct);
        // A token always has the claim that its holder's id was made of.
        if let Some((_, subject)) = described.id.strip_prefix("oidc/").and_then(|rest| rest.split_once('/'))
            && claims.get("sub").is_none()
        {
            claims["sub"] = Json::from(subject);
        }
        let description = Description::new(&described.id, claims.to_string().as_bytes(), certificate)
            .map_err(|error| bad(format!("id {error}")))?;
        answer.caller = Some(profile_message(&description.profile()));
        answer.findings.push(findings::described(&description));
        if let Some(issuer) = description.issuer() {
            let issuers = self.tokens.status();
            let finding = findings::issuer(issuer, issuers.iter().map(|issuer| issuer.name.as_str()));
            if !finding.passed {
                refuse(answer, Reason::TokenIssuerUnknown, finding);
                return Ok(None);
            }
            answer.findings.push(finding);
        }
        Ok(Some(Who::Described(Box::new(description))))
    }

    async fn examine(
        &self,
        call: &Call,
        examined: &ExaminedToken,
        answer: &mut ExplainAccessResponse,
    ) -> Result<Option<Who>, Failure> {
        let bad = |description| Failure::bad_field(Reason::InvalidArgument, "examined_token.certificate", description);
        let certificate = examined.certificate.as_ref().map(described_certificate).transpose().map_err(bad)?;
        let verified = async {
            let token = self.tokens.verify(&examined.token).await?;
            let thumbprint = certificate.as_ref().and_then(|certificate| findings::digest(&certificate.thumbprint));
            token.check_binding(thumbprint)?;
            Ok::<_, Rejection>(token)
        };
        match verified.await {
            Ok(token) => {
                answer.caller = Some(keyferry_proto::v1::Caller {
                    id: token.id().to_string(),
                    certificate: certificate.as_ref().map(|certificate| facts_message(&certificate.facts())),
                    token: Some(token_message(&token)),
                    expire_time: Some(super::timestamp(token.ends())),
                });
                answer.findings.extend(findings::token(&token, call.clock.now()));
                Ok(Some(Who::Examined(token, certificate.map(Box::new))))
            }
            Err(rejection) => {
                refuse(answer, rejection.reason(), findings::rejection(&rejection));
                Ok(None)
            }
        }
    }

    /// With its labels. To a caller who asks about itself, a secret that it cannot see is not there, and it must not learn
    /// otherwise here.
    async fn as_seen(
        &self,
        action: Action,
        resource: Resource,
        openly: bool,
        allows: impl Fn(Action, &Resource) -> bool,
        answer: &mut ExplainAccessResponse,
    ) -> Resource {
        let Resource::Secret(secret, none) = resource else {
            return resource;
        };
        let Some(labels) = self.labels(&secret, openly, answer).await else {
            return Resource::Secret(secret, none);
        };
        let real = Resource::Secret(secret.clone(), labels);
        if openly {
            answer.findings.push(findings::labels(&real));
            return real;
        }
        let seeing = [action, Action::GetSecret, Action::ListSecrets, Action::ListSecretVersions];
        if seeing.into_iter().any(|action| allows(action, &real)) {
            return real;
        }
        answer.findings.push(findings::absent(&secret, false));
        Resource::Secret(secret, none)
    }

    /// `None`: it does not exist, or nobody can tell now.
    async fn labels(&self, secret: &SecretName, openly: bool, answer: &mut ExplainAccessResponse) -> Option<Labels> {
        match self.secrets.labels(secret).await {
            Ok(Some(labels)) => Some(labels),
            // How the store is, is for operators.
            Err(failure) if openly => {
                answer.findings.push(findings::unread(&failure));
                None
            }
            Ok(None) | Err(_) => {
                answer.findings.push(findings::absent(secret, openly));
                None
            }
        }
    }
}

impl Who {
    fn profile<'a>(&'a self, call: &'a Call) -> Profile<'a> {
        match self {
            Self::Oneself => Profile::of(&call.caller),
            Self::Described(description) => description.profile(),
            Self::Examined(token, certificate) => Profile {
                id: token.id(),
                certificate: certificate.as_ref().map(|certificate| -> CertificateFacts<'_> { certificate.facts() }),
                token: Some(TokenFacts::of(token)),
            },
        }
    }
}

/// The method has two actions, and which of them is asked is known only here.
fn admit(call: &Call, asked: Action) -> Result<(), Failure> {
    let admitted = call.ask(asked, Resource::Broker);
    call.draft.note(|record| {
        record.action = asked.as_str();
        record.resource = Some(Resource::Broker.name());
        (record.decision, record.policy) = decided(&admitted);
    });
    admitted.map(drop).map_err(|refused| refused.failure)
}

/// `None`: the names are wrong, and the answer says how.
fn asked_for(action: &str, resource: &str, answer: &mut ExplainAccessResponse) -> Option<(Action, Resource)> {
    let Some(known) = Action::ALL.into_iter().find(|known| known.as_str() == action) else {
        let near = nearest(action, Action::ALL.iter().map(|action| action.as_str()));
        refuse(answer, Reason::InvalidArgument, findings::unknown_action(printable(action), near));
        return None;
    };
    let parsed = match resource {
        "" => Ok(Resource::Broker),
        name if name.starts_with("databases/") => RoleName::parse(name).map(Resource::DatabaseRole),
        name if name.contains("/secrets/") => {
            SecretName::parse(name).map(|secret| Resource::Secret(secret, Labels::default()))
        }
        name => StoreName::parse(name).map(Resource::Store),
    };
    match parsed {
        Ok(parsed) => {
            answer.findings.push(findings::names(known, &parsed));
            Some((known, parsed))
        }
        Err(error) => {
            refuse(answer, Reason::InvalidName, findings::bad_resource(printable(resource), &error));
            None
        }
    }
}

fn refuse(answer: &mut ExplainAccessResponse, reason: Reason, finding: AccessFinding) {
    answer.set_reason(reason);
    answer.findings.push(finding);
}

fn tell(answer: &mut ExplainAccessResponse, explanation: Explanation, openly: bool, hidden: bool) {
    if explanation.allowed {
        answer.set_decision(AccessDecision::Allow);
    } else {
        answer.set_reason(if hidden { Reason::SecretNotFound } else { Reason::AccessDenied });
    }
    let reference = |weighed: Weighed| reference(weighed, openly);
    answer.determining_policies = explanation.determining.into_iter().map(reference).collect();
    answer.considered_policies = explanation.considered.into_iter().map(reference).collect();
}

fn reference(weighed: Weighed, openly: bool) -> PolicyReference {
    let effect = if weighed.forbids { PolicyEffect::Forbid } else { PolicyEffect::Permit };
    if !openly {
        let unmet = if weighed.unmet.is_empty() { String::new() } else { WITHHELD.to_owned() };
        return PolicyReference { policy_id: weighed.id, effect: effect.into(), unmet, ..PolicyReference::default() };
    }
    PolicyReference {
        policy_id: weighed.id,
        file: weighed.file,
        line: i32::try_from(weighed.line).unwrap_or_default(),
        effect: effect.into(),
        description: weighed.description,
        unmet: weighed.unmet,
    }
}

fn finding(
    stage: AccessStage,
    passed: bool,
    subject: &str,
    expected: &str,
    actual: &str,
    message: &str,
) -> AccessFinding {
    AccessFinding {
        stage: stage.into(),
        passed,
        subject: subject.to_owned(),
        expected: expected.to_owned(),
        actual: actual.to_owned(),
        message: message.to_owned(),
    }
}
