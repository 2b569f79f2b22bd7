//! Each way in which the trust between two clouds can be set up wrongly: the link that breaks and what it says.

use serde_json::{Value, json};

use super::super::*;
use super::chains::{ACCOUNT, PROVIDER, SCOPE, application, managed, obtain, to_azure, to_google};
use super::double::{self, Double};

/// In every body of the other side, and never to be repeated.
const CANARY: &str = "canary-of-the-other-side";

fn oauth(code: &str, description: &str) -> Value {
    json!({ "error": code, "error_description": format!("{description} {CANARY}") })
}

fn aadsts(number: u64) -> Value {
    json!({ "error": "invalid_client", "error_description": format!("AADSTS{number}: {CANARY}"), "error_codes": [number] })
}

fn api(status: &str, reason: &str) -> Value {
    json!({ "error": { "status": status, "message": CANARY, "details": [{ "reason": reason }] } })
}

async fn breaks(
    settings: &CredentialSettings,
    double: &Double,
    path: &'static str,
    status: u16,
    body: &Value,
    link: &str,
    says: &[&str],
) {
    double.json(path, status, body);
    let broken = obtain(settings, SCOPE).await.err().unwrap_or_else(|| panic!("{body} did no harm"));
    assert_eq!((broken.link, broken.passing), (link, false), "{body}: {broken}");
    for say in says {
        assert!(broken.message.contains(say), "{body}: {broken} does not say {say:?}");
    }
    assert!(!broken.message.contains(CANARY), "{broken}");
    assert!(!broken.message.contains("eyJ"), "{broken}");
}

#[tokio::test]
async fn the_token_service_says_what_the_pools_provider_must_have() {
    let double = Double::start().await;
    let settings = to_google(&double, Some(ACCOUNT));
    let cases: [(u16, Value, &[&str]); 9] = [
        (
            400,
            oauth("invalid_grant", "The audience in ID Token does not match"),
            &["audience", "api://keyferry", PROVIDER, "--allowed-audiences=api://keyferry"],
        ),
        (
            400,
            oauth("invalid_grant", "The issuer in ID Token does not match"),
            &["--issuer-uri=https://sts.windows.net/t/", "case and final slash"],
        ),
        (400, oauth("invalid_grant", "Error connecting to the given credential's issuer."), &["reachable"]),
        (400, oauth("invalid_grant", "The ID Token is expired"), &["clock"]),
        (400, oauth("invalid_grant", ""), &["https://sts.windows.net/t/", "api://keyferry", "managed-1"]),
        (400, oauth("unauthorized_client", "rejected by the attribute condition"), &["managed-1", "case included"]),
        (400, oauth("invalid_target", ""), &[PROVIDER, "number, not its id"]),
        (400, oauth("invalid_request", ""), &[PROVIDER]),
        (404, json!(CANARY), &["sts_url"]),
    ];
    for (status, body, says) in cases {
        breaks(&settings, &double, double::STS, status, &body, "sts", says).await;
    }
}

#[tokio::test]
async fn impersonation_says_who_needs_which_role_on_which_account() {
    let double = Double::start().await;
    let settings = to_google(&double, Some(ACCOUNT));
    let principal =
        "principal://iam.googleapis.com/projects/42/locations/global/workloadIdentityPools/azure/subject/managed-1";
    let cases: [(u16, Value, &[&str]); 6] = [
        (
            403,
            api("PERMISSION_DENIED", "IAM_PERMISSION_DENIED"),
            &[principal, ACCOUNT, "roles/iam.workloadIdentityUser", "case"],
        ),
        (403, api("PERMISSION_DENIED", "SERVICE_DISABLED"), &["iamcredentials.googleapis.com"]),
        (404, api("NOT_FOUND", ""), &["no service account", ACCOUNT]),
        (401, api("UNAUTHENTICATED", ""), &["iam_url"]),
        (400, api("INVALID_ARGUMENT", ""), &[ACCOUNT]),
        (404, json!(CANARY), &["iam_url"]),
    ];
    for (status, body, says) in cases {
        breaks(&settings, &double, double::ACCESS, status, &body, "impersonation", says).await;
    }
}

#[tokio::test]
async fn entra_says_what_the_federated_credential_must_have() {
    let double = Double::start().await;
    let settings = to_azure(&double);
    let cases: [(Value, &[&str]); 11] = [
        (
            aadsts(70_021),
            &["https://accounts.google.com", "1234567890", "api://AzureADTokenExchange", "case", "(AADSTS70021)"],
        ),
        (aadsts(700_211), &["issuer", "https://accounts.google.com"]),
        (aadsts(700_212), &["audience", "api://AzureADTokenExchange"]),
        (aadsts(700_213), &["subject", "1234567890", "case", "unique id"]),
        (aadsts(700_016), &["client-1", "tenant-1"]),
        (aadsts(90_002), &["no tenant tenant-1"]),
        (aadsts(50_013), &["signature", "discovery"]),
        (aadsts(700_024), &["clock"]),
        (aadsts(500_011), &[SCOPE]),
        (oauth("unauthorized_client", "AADSTS700016: without a list of codes"), &["client-1", "AADSTS700016"]),
        (json!(CANARY), &["authority_url"]),
    ];
    for (body, says) in cases {
        breaks(&settings, &double, double::ENTRA, 400, &body, "entra", says).await;
    }
}

#[tokio::test]
async fn a_host_without_the_identity_says_so() {
    let double = Double::start().await;
    let missing = oauth("invalid_request", "Identity not found");
    let settings = CredentialSettings::Azure(managed(&double, None));
    breaks(&settings, &double, double::IMDS, 400, &missing, "managed-identity", &["system-assigned", "client_id"])
        .await;
    let settings = CredentialSettings::Azure(managed(&double, Some("c-1")));
    breaks(&settings, &double, double::IMDS, 400, &missing, "managed-identity", &["c-1", "not the object id"]).await;
    let unknown = oauth("invalid_resource", "AADSTS500011: not found");
    let settings = to_google(&double, None);
    breaks(&settings, &double, double::IMDS, 400, &unknown, "managed-identity", &["api://keyferry", "App ID URI"])
        .await;
    let settings = to_azure(&double);
    breaks(&settings, &double, double::METADATA_IDENTITY, 404, &json!(CANARY), "id-token", &["service account"]).await;
}

#[tokio::test]
async fn a_stranger_in_the_metadata_servers_place_is_not_believed() {
    let double = Double::start().await;
    double.answer("/default/token", 200, r#"{"access_token":"stolen","expires_in":3600}"#);
    let settings = CredentialSettings::Google(GoogleIdentity::Metadata { url: format!("{}/stranger", double.url) });
    let broken = obtain(&settings, SCOPE).await.err().unwrap();
    assert_eq!(broken.link, "metadata");
    assert!(broken.message.contains("Metadata-Flavor"), "{broken}");
}

#[tokio::test]
async fn what_passes_by_itself_is_told_from_what_somebody_must_mend() {
    let double = Double::start().await;
    let settings = to_google(&double, None);
    for status in [408, 429, 500, 503] {
        double.json(double::STS, status, &oauth("invalid_grant", "x"));
        let broken = obtain(&settings, SCOPE).await.err().unwrap();
        assert!(broken.passing && broken.link == "sts" && !broken.message.contains(CANARY), "{status}: {broken}");
    }
    let gone = CredentialSettings::Google(GoogleIdentity::Metadata { url: "http://127.0.0.1:1".to_owned() });
    let broken = obtain(&gone, SCOPE).await.err().unwrap();
    assert!(broken.passing && broken.message.contains("http://127.0.0.1:1 cannot be connected to"), "{broken}");
}

#[tokio::test]
async fn an_answer_that_is_no_token_is_refused_in_our_words() {
    let double = Double::start().await;
    let settings = to_google(&double, None);
    let large = format!(r#"{{"access_token":"{}","expires_in":1}}"#, "a".repeat(70_000));
    for body in [
        "",
        CANARY,
        "[]",
        "{}",
        r#"{"access_token":"","expires_in":3600}"#,
        r#"{"access_token":"a b","expires_in":3600}"#,
        r#"{"access_token":"a\r\nx: y","expires_in":3600}"#,
        r#"{"access_token":"a"}"#,
        r#"{"access_token":"a","expires_in":0}"#,
        r#"{"access_token":"a","expires_in":"soon"}"#,
        r#"{"access_token":"a","expires_on":1}"#,
        &large,
    ] {
        double.answer(double::STS, 200, body);
        let broken = obtain(&settings, SCOPE).await.err().unwrap_or_else(|| panic!("{body} was taken"));
        assert!(broken.link == "sts" && !broken.message.contains(CANARY), "{body}: {broken}");
    }
    double.answer(double::STS, 200, r#"{"access_token":"a","expires_in":18446744073709551615}"#);
    let token = obtain(&settings, SCOPE).await.unwrap_or_else(|b| panic!("{b}"));
    assert_eq!(token.expires.as_secs(), super::BEGUN + 25 * 3600);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let double = Double::start().await;
    double.answer(double::STS, 307, "");
    let broken = obtain(&to_google(&double, None), SCOPE).await.err().unwrap();
    assert_eq!((broken.link, broken.passing, double.requests()), ("sts", false, 2));
}

#[tokio::test]
async fn no_token_travels_in_plain_text() {
    let double = Double::start().await;
    let mut plain = application(&double);
    plain.authority_url = "http://login.example.com".to_owned();
    let settings = CredentialSettings::Azure(AzureIdentity::Federation {
        application: plain,
        signer: IdTokenSigner::Metadata { url: double.url.clone() },
        audience: "a".to_owned(),
    });
    let broken = obtain(&settings, SCOPE).await.err().unwrap();
    assert!(broken.link == "entra" && broken.message.contains("https://"), "{broken}");
}
