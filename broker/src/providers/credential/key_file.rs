//! Google credential files, for development: a person's refresh token, a service account's key, or either acting as
//! another account. Read again each time, so that a file put right is a credential put right.

use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::BoxFuture;
use http::StatusCode;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::json;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::api_error::OAuthError;
use super::impersonation::{Impersonation, LONGEST};
use super::wire::{self, Http};
use super::{Broken, GOOGLE_CLOUD_SCOPE, Token, TokenSource, token};
use crate::clock::{SharedClock, Timestamp};

pub(super) const LINK: &str = "key-file";
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
const MAX_FILE: usize = 64 * 1024;
/// Google takes no longer ones.
const ASSERTION_LIFE: u64 = 3600;

pub(super) struct KeyFile {
    pub(super) http: Http,
    pub(super) path: PathBuf,
    pub(super) clock: SharedClock,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Content {
    AuthorizedUser(User),
    ServiceAccount(Key),
    ImpersonatedServiceAccount {
        source_credentials: Box<Content>,
        service_account_impersonation_url: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize, ZeroizeOnDrop)]
struct User {
    client_id: String,
    client_secret: String,
    refresh_token: String,
    token_uri: Option<String>,
}

#[derive(Deserialize, ZeroizeOnDrop)]
struct Key {
    client_email: String,
    private_key_id: Option<String>,
    private_key: String,
    token_uri: Option<String>,
}

impl TokenSource for KeyFile {
    fn chain(&self) -> Vec<&'static str> {
        vec![LINK]
    }

    fn obtain<'a>(&'a self, scope: &'a str) -> BoxFuture<'a, Result<Token, Broken>> {
        Box::pin(async move {
            let now = self.clock.now();
            match read(&self.path).await? {
                Content::AuthorizedUser(user) => self.refresh(&user, now).await,
                Content::ServiceAccount(key) => self.assert(&key, scope, now).await,
                Content::ImpersonatedServiceAccount { source_credentials, service_account_impersonation_url } => {
                    let own = match *source_credentials {
                        Content::AuthorizedUser(user) => self.refresh(&user, now).await?,
                        Content::ServiceAccount(key) => self.assert(&key, GOOGLE_CLOUD_SCOPE, now).await?,
                        Content::ImpersonatedServiceAccount { .. } | Content::Other => return Err(self.unsupported()),
                    };
                    let (url, service_account) =
                        target_of(&service_account_impersonation_url).ok_or_else(|| self.unsupported())?;
                    let impersonation = Impersonation { http: self.http.clone(), url, service_account };
                    let caller = own.subject.clone();
                    impersonation
                        .access_token(&own, scope, LONGEST, caller.as_deref().unwrap_or("the file's user"), now)
                        .await
                }
                Content::Other => Err(self.unsupported()),
            }
        })
    }
}

impl KeyFile {
    /// The scopes are those that the person consented to.
    async fn refresh(&self, user: &User, now: Timestamp) -> Result<Token, Broken> {
        let form: [(&str, &str); 4] = [
            ("grant_type", "refresh_token"),
            ("client_id", &user.client_id),
            ("client_secret", &user.client_secret),
            ("refresh_token", &user.refresh_token),
        ];
        let advice = "run gcloud auth application-default login again";
        self.ask(user.token_uri.as_deref(), &form, advice, now).await
    }

    async fn assert(&self, key: &Key, scope: &str, now: Timestamp) -> Result<Token, Broken> {
        let audience = key.token_uri.as_deref().unwrap_or(TOKEN_URI);
        let assertion = sign(key, audience, scope, now).ok_or_else(|| {
            let message = format!("the private key in {} cannot be used; make a new key file", self.path.display());
            Broken::lasting(LINK, message)
        })?;
        let form: [(&str, &str); 2] =
            [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &assertion)];
        let advice =
            "its key may be deleted or its account disabled, or this host's clock is wrong; make a new key file";
        let mut token = self.ask(key.token_uri.as_deref(), &form, advice, now).await?;
        token.subject = Some(key.client_email.as_str().into());
        Ok(token)
    }

    async fn ask(
        &self,
        token_uri: Option<&str>,
        form: &[(&str, &str)],
        advice: &str,
        now: Timestamp,
    ) -> Result<Token, Broken> {
        let request = self.http.post_form(LINK, token_uri.unwrap_or(TOKEN_URI), form)?;
        let answer = wire::send(LINK, request).await?;
        answer.check_passing(LINK)?;
        if answer.status == StatusCode::OK {
            return token::read_answer(LINK, &answer.body, now);
        }
        let shown = self.path.display();
        let message = match OAuthError::read(&answer.body).code() {
            "" => format!(
                "the token_uri in {shown} answers {} and not as Google does; correct it",
                answer.status.as_u16()
            ),
            code => format!("Google answers {code} to the credential in {shown}: {advice}"),
        };
        Err(Broken::lasting(LINK, message))
    }

    fn unsupported(&self) -> Broken {
        let message = format!(
            "{} is of no type that is served: authorized_user, service_account, or impersonated_service_account over one \
             of them; for federation use kind = \"google-federation\"",
            self.path.display()
        );
        Broken::lasting(LINK, message)
    }
}

async fn read(path: &Path) -> Result<Content, Broken> {
    let shown = path.display();
    let bytes = tokio::fs::read(path).await.map(Zeroizing::new).map_err(|error| {
        Broken::lasting(LINK, format!("{shown} cannot be read ({}); put it there, or correct the path", error.kind()))
    })?;
    let content = if bytes.len() > MAX_FILE { None } else { serde_json::from_slice(&bytes).ok() };
    content.ok_or_else(|| Broken::lasting(LINK, format!("{shown} is not a Google credential file; put one there")))
}

fn sign(key: &Key, audience: &str, scope: &str, now: Timestamp) -> Option<Zeroizing<String>> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(key.private_key.as_bytes()).ok()?;
    let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).ok()?;
    let header = json!({ "alg": "RS256", "typ": "JWT", "kid": key.private_key_id });
    let issued = now.as_secs();
    let claims = json!({
        "iss": key.client_email, "scope": scope, "aud": audience, "iat": issued, "exp": issued + ASSERTION_LIFE,
    });
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).ok()?;
    Some(Zeroizing::new(format!("{signed}.{}", encode(&signature))))
}

/// `https://HOST/v1/projects/-/serviceAccounts/EMAIL:generateAccessToken`
fn target_of(url: &str) -> Option<(String, String)> {
    let (host, account) = url.split_once("/v1/projects/-/serviceAccounts/")?;
    let account = account.strip_suffix(":generateAccessToken")?;
    let fits = account.bytes().all(|b| b.is_ascii_alphanumeric() || b"@.-_".contains(&b)) && account.contains('@');
    fits.then(|| (host.to_owned(), account.to_owned()))
}
