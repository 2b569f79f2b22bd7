//! What each chain sends, and what comes of it.

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use zeroize::Zeroizing;

use super::super::managed_identity::{Host, ManagedIdentity};
use super::super::wire::Http;
use super::super::*;
use super::double::{self, Double};
use super::{BEGUN, TestClock};

pub(super) const PROVIDER: &str = "projects/42/locations/global/workloadIdentityPools/azure/providers/entra";
pub(super) const ACCOUNT: &str = "broker@p.iam.gserviceaccount.com";
pub(super) const SCOPE: &str = "https://vault.azure.net/.default";

pub(super) fn managed(double: &Double, client_id: Option<&str>) -> AzureIdentity {
    let host = ManagedIdentityHost::VirtualMachine { url: double.url.clone() };
    AzureIdentity::Managed { host, client_id: client_id.map(str::to_owned) }
}

pub(super) fn to_google(double: &Double, account: Option<&str>) -> CredentialSettings {
    CredentialSettings::Google(GoogleIdentity::Federation(Box::new(GoogleFederation {
        from: managed(double, None),
        resource: "api://keyferry".to_owned(),
        provider: PROVIDER.to_owned(),
        service_account: account.map(str::to_owned),
        sts_url: format!("{}{}", double.url, double::STS),
        iam_url: double.url.clone(),
    })))
}

pub(super) fn application(double: &Double) -> EntraApplication {
    EntraApplication { tenant: "tenant-1".into(), client_id: "client-1".into(), authority_url: double.url.clone() }
}

pub(super) fn to_azure(double: &Double) -> CredentialSettings {
    CredentialSettings::Azure(AzureIdentity::Federation {
        application: application(double),
        signer: IdTokenSigner::Metadata { url: double.url.clone() },
        audience: "api://AzureADTokenExchange".to_owned(),
    })
}

pub(super) async fn obtain(settings: &CredentialSettings, scope: &str) -> Result<Token, Broken> {
    chain::build(settings, &TestClock::new().shared()).unwrap().obtain(scope).await
}

#[tokio::test]
async fn azure_becomes_a_google_service_account_by_federation_and_impersonation() {
    let double = Double::start().await;
    let token = obtain(&to_google(&double, Some(ACCOUNT)), GOOGLE_CLOUD_SCOPE).await.unwrap_or_else(|b| panic!("{b}"));
    assert_eq!((token.value(), token.subject.as_deref()), ("impersonated", Some(ACCOUNT)));
    assert_eq!(token.expires.as_secs(), 1_800_001_800);

    let imds = double.seen(double::IMDS);
    assert_eq!((&*imds.fields["resource"], &*imds.fields["api-version"]), ("api://keyferry", "2018-02-01"));
    assert_eq!(imds.headers["metadata"], "true");
    let sts = double.seen(double::STS).fields;
    assert_eq!(sts["audience"], format!("//iam.googleapis.com/{PROVIDER}"));
    assert_eq!(sts["grant_type"], "urn:ietf:params:oauth:grant-type:token-exchange");
    assert_eq!(sts["subject_token_type"], "urn:ietf:params:oauth:token-type:jwt");
    assert_eq!(sts["subject_token"], double::jwt("https://sts.windows.net/t/", "managed-1", "api://keyferry"));
    let iam = double.seen(double::ACCESS);
    assert_eq!(iam.path, format!("/v1/projects/-/serviceAccounts/{ACCOUNT}:generateAccessToken"));
    assert_eq!(iam.headers["authorization"], "Bearer federated");
    assert!(iam.fields["json"].contains(GOOGLE_CLOUD_SCOPE));
}

#[tokio::test]
async fn azure_is_the_federated_principal_itself_where_no_account_is_named() {
    let double = Double::start().await;
    let token = obtain(&to_google(&double, None), "scope-1").await.unwrap_or_else(|b| panic!("{b}"));
    assert_eq!(token.value(), "federated");
    let principal =
        "principal://iam.googleapis.com/projects/42/locations/global/workloadIdentityPools/azure/subject/managed-1";
    assert_eq!(token.subject.as_deref(), Some(principal));
    assert_eq!(double.seen(double::STS).fields["scope"], "scope-1");
}

#[tokio::test]
async fn google_becomes_an_entra_application_by_its_id_token() {
    let double = Double::start().await;
    let token = obtain(&to_azure(&double), SCOPE).await.unwrap_or_else(|b| panic!("{b}"));
    assert_eq!((token.value(), token.subject.as_deref()), ("entra", Some("client-1")));
    let identity = double.seen(double::METADATA_IDENTITY);
    assert_eq!(identity.fields["audience"], "api://AzureADTokenExchange");
    assert_eq!(identity.headers["metadata-flavor"], "Google");
    let entra = double.seen(double::ENTRA);
    assert_eq!(entra.path, "/tenant-1/oauth2/v2.0/token");
    assert_eq!((&*entra.fields["client_id"], &*entra.fields["scope"]), ("client-1", SCOPE));
    assert_eq!(entra.fields["client_assertion_type"], "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
    assert!(entra.fields["client_assertion"].starts_with("ey"));
}

#[tokio::test]
async fn google_becomes_an_entra_application_through_another_service_account() {
    let double = Double::start().await;
    let settings = CredentialSettings::Azure(AzureIdentity::Federation {
        application: application(&double),
        signer: IdTokenSigner::Impersonation {
            from: Box::new(GoogleIdentity::Metadata { url: double.url.clone() }),
            service_account: ACCOUNT.to_owned(),
            iam_url: double.url.clone(),
        },
        audience: "api://AzureADTokenExchange".to_owned(),
    });
    assert_eq!(obtain(&settings, SCOPE).await.unwrap_or_else(|b| panic!("{b}")).value(), "entra");
    assert_eq!(double.seen(double::ID).headers["authorization"], "Bearer google");
    let links = chain::build(&settings, &TestClock::new().shared()).unwrap().chain();
    assert_eq!(links, ["metadata", "id-token", "entra"]);
}

#[tokio::test]
async fn the_metadata_servers_token_names_its_account() {
    let double = Double::start().await;
    let settings = CredentialSettings::Google(GoogleIdentity::Metadata { url: double.url.clone() });
    let token = obtain(&settings, GOOGLE_CLOUD_SCOPE).await.unwrap_or_else(|b| panic!("{b}"));
    assert_eq!((token.value(), token.subject.as_deref()), ("google", Some(ACCOUNT)));
    assert_eq!(token.expires.as_secs(), BEGUN + 3599);
    assert_eq!(double.seen(double::METADATA_TOKEN).fields["scopes"], GOOGLE_CLOUD_SCOPE);
}

#[tokio::test]
async fn app_service_is_asked_with_its_header_and_tells_only_when_the_token_ends() {
    let double = Double::start().await;
    double.json("/msi/token", 200, &json!({ "access_token": "app", "expires_on": (BEGUN + 600).to_string() }));
    let host = Host::AppService { url: format!("{}/msi/token", double.url), header: Zeroizing::new("h".to_owned()) };
    let (http, clock) = (Http::new().unwrap(), TestClock::new().shared());
    let identity = ManagedIdentity { http, host, client_id: Some("c1".to_owned()), clock };
    let token = identity.obtain(SCOPE).await.unwrap_or_else(|b| panic!("{b}"));
    assert_eq!((token.value(), token.expires.as_secs()), ("app", BEGUN + 600));
    let seen = double.seen("/msi/token");
    assert_eq!((&*seen.fields["client_id"], &*seen.fields["resource"]), ("c1", "https://vault.azure.net"));
    assert_eq!(
        (&seen.headers["x-identity-header"], &*seen.fields["api-version"]),
        (&"h".parse().unwrap(), "2019-08-01")
    );
}

#[tokio::test]
async fn a_pods_token_is_read_anew_each_time() {
    let double = Double::start().await;
    let directory = tempfile::tempdir().unwrap();
    let token_file = directory.path().join("token");
    let settings = CredentialSettings::Azure(AzureIdentity::Workload {
        application: application(&double),
        token_file: token_file.clone(),
    });
    let source = chain::build(&settings, &TestClock::new().shared()).unwrap();
    let broken = source.obtain(SCOPE).await.err().unwrap();
    assert_eq!((broken.link, broken.passing), ("token-file", false));
    for token in ["a.b.c", "d.e.f"] {
        std::fs::write(&token_file, format!("{token}\n")).unwrap();
        assert!(source.obtain(SCOPE).await.is_ok());
        assert_eq!(double.seen(double::ENTRA).fields["client_assertion"], token);
    }
}

#[tokio::test]
async fn a_service_accounts_key_signs_for_the_scope() {
    let double = Double::start().await;
    let (file, public) = key_file(&double);
    let settings = CredentialSettings::Google(GoogleIdentity::File { path: file.path().to_owned() });
    let token = obtain(&settings, "scope-1").await.unwrap_or_else(|b| panic!("{b}"));
    assert_eq!((token.value(), token.subject.as_deref()), ("entra", Some(ACCOUNT)));
    let assertion = double.seen(double::ENTRA).fields["assertion"].clone();
    let (signed, signature) = assertion.rsplit_once('.').unwrap();
    let decode = |part: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap();
    let algorithm = &aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256;
    let key = aws_lc_rs::signature::UnparsedPublicKey::new(algorithm, public);
    key.verify(signed.as_bytes(), &decode(signature)).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&decode(signed.split_once('.').unwrap().1)).unwrap();
    let expected = json!({
        "iss": ACCOUNT, "scope": "scope-1", "iat": BEGUN, "exp": BEGUN + 3600,
        "aud": format!("{}/oauth2/v2.0/token", double.url),
    });
    assert_eq!(claims, expected);
}

fn key_file(double: &Double) -> (tempfile::NamedTempFile, Vec<u8>) {
    use aws_lc_rs::signature::KeyPair as _;
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(pkcs8.as_ref()));
    let content = json!({
        "type": "service_account", "client_email": ACCOUNT, "private_key_id": "k1", "private_key": pem,
        "token_uri": format!("{}/oauth2/v2.0/token", double.url),
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content.to_string()).unwrap();
    (file, pair.public_key().as_ref().to_vec())
}

#[tokio::test]
async fn a_persons_file_refreshes_and_may_act_as_an_account() {
    let double = Double::start().await;
    let user = json!({
        "type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r",
        "token_uri": format!("{}/oauth2/v2.0/token", double.url),
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    let settings = CredentialSettings::Google(GoogleIdentity::File { path: file.path().to_owned() });
    std::fs::write(file.path(), user.to_string()).unwrap();
    assert_eq!(obtain(&settings, "x").await.unwrap_or_else(|b| panic!("{b}")).value(), "entra");
    assert_eq!(double.seen(double::ENTRA).fields["refresh_token"], "r");

    let acting = json!({
        "type": "impersonated_service_account", "source_credentials": user,
        "service_account_impersonation_url":
            format!("{}/v1/projects/-/serviceAccounts/{ACCOUNT}:generateAccessToken", double.url),
    });
    std::fs::write(file.path(), acting.to_string()).unwrap();
    assert_eq!(obtain(&settings, "x").await.unwrap_or_else(|b| panic!("{b}")).value(), "impersonated");

    std::fs::write(file.path(), r#"{"type":"external_account"}"#).unwrap();
    let broken = obtain(&settings, "x").await.err().unwrap();
    assert_eq!((broken.link, broken.passing), ("key-file", false));
    assert!(broken.message.contains("google-federation"), "{broken}");
}
