//! Why a call is denied, told to whoever may know and to nobody else.

use std::fs;
use std::sync::Arc;

use keyferry_broker::clock::{Clock as _, SystemClock};
use keyferry_proto::v1::explain_access_request::Subject;
use keyferry_proto::v1::{
    AccessDecision, AccessFinding, DescribedCaller, ErrorReason, ExaminedToken, ExplainAccessRequest,
    ExplainAccessResponse,
};
use keyferry_tests::broker::TestBroker;
use keyferry_tests::issuer::{AUDIENCE, Issuer};
use keyferry_tests::pki::Issued;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::json;

use crate::reload::eventually;
use crate::status::refused;

const POLICY: &str = r#"
@id("operator-does-everything")
permit (principal, action, resource)
when { principal has certificate && principal.certificate has spiffe && principal.certificate.spiffe.path == "/operator" };

@id("client-reads-dev")
@description("workloads read what is marked for development")
permit (principal, action in [Keyferry::Action::"Read"], resource is Keyferry::Secret)
when { principal has certificate && principal.certificate has spiffe && principal.certificate.spiffe.path == "/client" }
unless { resource.hasTag("env") && resource.getTag("env") == "prod" };

@id("readers-read")
permit (principal, action == Keyferry::Action::"GetSecret", resource)
when { principal has token && principal.hasTag("roles") && principal.getTag("roles").contains("reader") };

@id("anyone-asks-about-itself")
permit (principal, action == Keyferry::Action::"ExplainSelf", resource);
"#;

async fn broker() -> (TestBroker, Issuer) {
    let issuer = Issuer::new("k1");
    let keys = tempfile::tempdir().unwrap();
    issuer.write_keys(keys.path());
    let pinned = keys.path().join("issuer.jwks.json");
    let more = Issuer::configuration().replace("issuer.jwks.json", pinned.to_str().unwrap());
    let broker = TestBroker::with(&more, Arc::new(SystemClock)).await;
    let before = broker.broker.parts().gate.policies().status().hash;
    fs::write(broker.path().join("policy/test.cedar"), POLICY).unwrap();
    let changed = async || broker.broker.parts().gate.policies().status().hash != before;
    eventually("the policy is in force", changed).await;
    broker.put("dev", b"x", &[("env", "dev")]).await;
    broker.put("prod", b"x", &[("env", "prod")]).await;
    (broker, issuer)
}

async fn ask(broker: &TestBroker, who: &Issued, subject: Option<Subject>, secret: &str) -> ExplainAccessResponse {
    let resource = format!("stores/local/secrets/{secret}");
    let request = ExplainAccessRequest { subject, action: "GetSecret".into(), resource };
    broker.operations(who).await.explain_access(request).await.unwrap().into_inner()
}

fn described(id: &str, roles: &[&str]) -> Option<Subject> {
    let string = |text: &&str| Value { kind: Some(Kind::StringValue((*text).to_owned())) };
    let list = ListValue { values: roles.iter().map(string).collect() };
    let roles = ("roles".to_owned(), Value { kind: Some(Kind::ListValue(list)) });
    let claims = Some(Struct { fields: [roles].into() });
    Some(Subject::DescribedCaller(DescribedCaller { id: id.to_owned(), claims, certificate: None }))
}

fn examined(token: &str) -> Option<Subject> {
    Some(Subject::ExaminedToken(ExaminedToken { token: token.to_owned(), certificate: None }))
}

#[track_caller]
fn failed<'a>(answer: &'a ExplainAccessResponse, subject: &str) -> &'a AccessFinding {
    let found = answer.findings.iter().find(|finding| finding.subject == subject && !finding.passed);
    found.unwrap_or_else(|| panic!("no failed finding on {subject} in {:#?}", answer.findings))
}

fn ids(answer: &ExplainAccessResponse) -> Vec<&str> {
    answer.determining_policies.iter().map(|policy| policy.policy_id.as_str()).collect()
}

#[tokio::test]
async fn an_allowed_call_names_the_policy_that_permits_it_and_where_it_stands() {
    let (broker, _) = broker().await;
    let answer = ask(&broker, &broker.operator, described("x509/spiffe://test.keyferry/client", &[]), "dev").await;
    assert_eq!((answer.decision(), answer.reason()), (AccessDecision::Allow, ErrorReason::Unspecified));
    let policy = &answer.determining_policies[0];
    assert_eq!((policy.policy_id.as_str(), policy.file.as_str(), policy.line), ("client-reads-dev", "test.cedar", 6));
    assert_eq!(policy.description, "workloads read what is marked for development");
}

#[tokio::test]
async fn a_denied_call_names_the_condition_that_failed_and_what_was_there() {
    let (broker, _) = broker().await;
    let answer = ask(&broker, &broker.operator, described("x509/spiffe://test.keyferry/client", &[]), "prod").await;
    assert_eq!((answer.decision(), answer.reason()), (AccessDecision::Deny, ErrorReason::SecretNotFound));
    assert!(ids(&answer).is_empty());
    let near = &answer.considered_policies[0];
    assert_eq!(near.policy_id, "client-reads-dev");
    assert!(near.unmet.starts_with("unless resource.hasTag(\"env\")"), "{}", near.unmet);
    assert!(near.unmet.contains("resource.getTag(\"env\") is \"prod\""), "{}", near.unmet);
}

#[tokio::test]
async fn one_wrong_letter_in_a_role_is_pointed_out() {
    let (broker, _) = broker().await;
    let answer = ask(&broker, &broker.operator, described("oidc/test/alice", &["raeder"]), "dev").await;
    assert_eq!((answer.decision(), answer.reason()), (AccessDecision::Deny, ErrorReason::AccessDenied));
    let near = &answer.considered_policies[0];
    assert_eq!(near.policy_id, "readers-read");
    assert_eq!(
        near.unmet,
        "when principal.getTag(\"roles\").contains(\"reader\"): principal.getTag(\"roles\") is [\"raeder\"]; \
         \"raeder\" is one letter off \"reader\""
    );
    let answer = ask(&broker, &broker.operator, described("oidc/test/alice", &["reader"]), "dev").await;
    assert_eq!(ids(&answer), ["readers-read"]);
}

#[tokio::test]
async fn a_secret_that_is_not_there_is_decided_without_labels_and_said_to_be_absent() {
    let (broker, _) = broker().await;
    let answer = ask(&broker, &broker.operator, described("x509/spiffe://test.keyferry/client", &[]), "absent").await;
    assert_eq!(answer.decision(), AccessDecision::Allow);
    assert!(failed(&answer, "resource").message.contains("no label of it is known"));
}

#[tokio::test]
async fn a_caller_is_told_its_own_policies_by_id_alone_and_nothing_about_others() {
    let (broker, _) = broker().await;
    let answer = ask(&broker, &broker.client, None, "dev").await;
    assert_eq!(answer.decision(), AccessDecision::Allow);
    let policy = &answer.determining_policies[0];
    assert_eq!((policy.policy_id.as_str(), policy.file.as_str(), policy.line), ("client-reads-dev", "", 0));
    assert!(policy.description.is_empty());
    assert!(answer.considered_policies.iter().all(|policy| !policy.unmet.contains("principal")));

    let request = |subject| ExplainAccessRequest { subject, action: "GetSecret".into(), ..Default::default() };
    let mut client = broker.operations(&broker.client).await;
    let other = request(described("x509/spiffe://test.keyferry/operator", &[]));
    assert_eq!(refused(client.explain_access(other).await), "ACCESS_DENIED");
    assert_eq!(refused(client.explain_access(request(examined("a.b.c"))).await), "ACCESS_DENIED");
}

#[tokio::test]
async fn a_caller_cannot_find_out_by_asking_about_itself_whether_a_hidden_secret_exists() {
    let (broker, _) = broker().await;
    let hidden = ask(&broker, &broker.client, None, "prod").await;
    let absent = ask(&broker, &broker.client, None, "none").await;
    let alike = format!("{hidden:?}").replace("secrets/prod", "secrets/none");
    assert_eq!(alike, format!("{absent:?}"));
}

#[tokio::test]
async fn wrong_names_are_answered_with_the_right_ones() {
    let (broker, _) = broker().await;
    let mut operator = broker.operations(&broker.operator).await;
    let request = |action: &str, resource: &str| ExplainAccessRequest {
        subject: None,
        action: action.into(),
        resource: resource.into(),
    };
    let answer = operator.explain_access(request("GetSecrets", "stores/local")).await.unwrap().into_inner();
    assert_eq!((answer.decision(), answer.reason()), (AccessDecision::Deny, ErrorReason::InvalidArgument));
    assert_eq!(failed(&answer, "action").expected, "GetSecret");
    let answer = operator.explain_access(request("GetSecret", "stores/A/secrets/b")).await.unwrap().into_inner();
    assert_eq!(answer.reason(), ErrorReason::InvalidName);
    let answer = operator.explain_access(request("GetSecret", "stores/local")).await.unwrap().into_inner();
    assert_eq!(answer.reason(), ErrorReason::InvalidArgument);
    let answer = ask(&broker, &broker.operator, described("oidc/tset/alice", &["reader"]), "dev").await;
    assert_eq!(answer.reason(), ErrorReason::TokenIssuerUnknown);
    assert!(failed(&answer, "token.iss").message.contains("did you mean test?"));
}

#[tokio::test]
async fn an_examined_token_is_told_what_was_expected_of_it() {
    let (broker, issuer) = broker().await;
    let now = SystemClock.now().as_secs();
    let foreign = Issuer::new("k2");
    let cases = [
        (issuer.token("alice", &json!({ "aud": "elsewhere" })), "token.aud", ErrorReason::TokenAudience),
        (issuer.token("alice", &json!({ "iat": now - 900, "exp": now - 300 })), "token.exp", ErrorReason::TokenExpired),
        (issuer.token("alice", &json!({ "iss": "https://other/" })), "token.iss", ErrorReason::TokenIssuerUnknown),
        (foreign.token("alice", &json!({})), "token.kid", ErrorReason::TokenKeyUnknown),
    ];
    let mut tokens = Vec::new();
    for (token, subject, reason) in cases {
        let answer = ask(&broker, &broker.operator, examined(&token), "dev").await;
        assert_eq!((answer.decision(), answer.reason()), (AccessDecision::Deny, reason));
        assert!(answer.caller.is_none());
        let finding = failed(&answer, subject);
        assert!(!finding.expected.is_empty() && !finding.actual.is_empty(), "{finding:?}");
        if subject == "token.aud" {
            assert!(finding.expected.contains(AUDIENCE) && finding.actual.contains("elsewhere"), "{finding:?}");
        }
        tokens.push((token, format!("{answer:?}")));
    }
    let good = issuer.token("alice", &json!({ "roles": ["reader"], "hasgroups": true }));
    let answer = ask(&broker, &broker.operator, examined(&good), "dev").await;
    assert_eq!((answer.decision(), ids(&answer)), (AccessDecision::Allow, vec!["readers-read"]));
    assert_eq!(answer.caller.as_ref().unwrap().id, "oidc/test/alice");
    assert!(failed(&answer, "token.groups").message.contains("app roles"));
    tokens.push((good, format!("{answer:?}")));

    // Neither the answers nor the audit log hold a token or a signature of one.
    let records = crate::audit::records(&broker.path().join("audit"));
    let log = serde_json::to_string(&records).unwrap();
    for (token, answer) in &tokens {
        for part in token.split('.').skip(1).chain([token.as_str()]) {
            assert!(!log.contains(part) && !answer.contains(part));
        }
    }
    let examined = records.iter().find(|record| record["resource"] == "callers/oidc/test/alice").unwrap();
    assert_eq!((&examined["action"], &examined["outcome"]), (&json!("ExplainAccess"), &json!("OK")));
}

#[test]
fn the_commands_explain_and_whoami_say_it_in_text_and_by_their_exit_code() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (broker, _) = runtime.block_on(broker());
    let run = |arguments: &[&str]| broker.command(&broker.client, arguments);
    let explain = |secret: &str| {
        run(&["explain", "--action", "GetSecret", "--resource", &format!("stores/local/secrets/{secret}")])
    };
    let (code, text) = explain("dev");
    assert!(code == 0 && text.starts_with("allowed: GetSecret on stores/local/secrets/dev\n"), "{code} {text}");
    let (code, text) = run(&["explain", "--action", "AddSecretVersion", "--resource", "stores/local/secrets/dev"]);
    assert!(code == 3 && text.starts_with("denied, ACCESS_DENIED"), "{code} {text}");
    let (code, text) = run(&["whoami"]);
    assert!(code == 3 && text.contains("may not WhoAmI"), "{code} {text}");
    let (code, text) = run(&["explain", "--json", "--action", "WhoAmI"]);
    let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &parsed["decision"]), (3, &json!("deny")));
}
