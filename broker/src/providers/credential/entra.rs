//! Entra's token endpoint: a client's assertion for an access token.

use http::StatusCode;

use super::api_error::OAuthError;
use super::claims::Claims;
use super::settings::EntraApplication;
use super::wire::{self, Http};
use super::{Broken, Token, token};
use crate::clock::Timestamp;

pub(super) const LINK: &str = "entra";

pub(super) async fn exchange(
    http: &Http,
    application: &EntraApplication,
    assertion: &str,
    scope: &str,
    now: Timestamp,
) -> Result<Token, Broken> {
    let EntraApplication { tenant, client_id, authority_url } = application;
    let url = format!("{}/{tenant}/oauth2/v2.0/token", authority_url.trim_end_matches('/'));
    let form: [(&str, &str); 5] = [
        ("grant_type", "client_credentials"),
        ("client_id", client_id),
        ("scope", scope),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", assertion),
    ];
    let answer = wire::send(LINK, http.post_form(LINK, &url, &form)?).await?;
    answer.check_passing(LINK)?;
    if answer.status != StatusCode::OK {
        let error = OAuthError::read(&answer.body);
        let message = explain(&error, answer.status, application, &Claims::of(assertion), scope);
        return Err(Broken::lasting(LINK, message));
    }
    let mut token = token::read_answer(LINK, &answer.body, now)?;
    token.subject = Some(client_id.as_str().into());
    Ok(token)
}

/// Entra numbers its errors: <https://learn.microsoft.com/entra/identity-platform/reference-error-codes>.
fn explain(
    error: &OAuthError,
    status: StatusCode,
    application: &EntraApplication,
    claims: &Claims,
    scope: &str,
) -> String {
    let EntraApplication { tenant, client_id, authority_url } = application;
    let (issuer, subject, audience) = (claims.issuer(), claims.subject(), claims.audience());
    let Some(code) = error.aadsts else {
        return match (error.code(), status) {
            ("", StatusCode::NOT_FOUND) => {
                format!("there is no token endpoint at {authority_url}; correct authority_url")
            }
            ("", status) => {
                format!("{authority_url} answers {} and not as Entra does; correct authority_url", status.as_u16())
            }
            (code, _) => format!(
                "Entra answers {code} for client {client_id} in tenant {tenant}; check the application, its federated \
                 credential and the scope {scope}"
            ),
        };
    };
    let what = match code {
        70_021 | 70_025 | 700_210 => format!(
            "no federated credential of application {client_id} fits the assertion; one must have exactly issuer \
             {issuer}, subject {subject} and audience {audience}, case included"
        ),
        700_211 => format!(
            "no federated credential of application {client_id} has the assertion's issuer; set it to exactly \
             {issuer}, case and final slash included"
        ),
        700_212 => format!(
            "no federated credential of application {client_id} has the assertion's audience; set it to exactly \
             {audience}"
        ),
        700_213 | 7_002_137 | 7_002_138 => format!(
            "no federated credential of application {client_id} has the assertion's subject; set it to exactly \
             {subject}, case included (of a Google service account it is the unique id, not the e-mail)"
        ),
        700_016 => format!(
            "tenant {tenant} has no application {client_id}; correct client_id (it is the application's, not the \
             object's) or tenant"
        ),
        7_000_112 => format!("application {client_id} is disabled; enable its service principal"),
        90_002 | 900_021 | 900_023 => {
            format!("there is no tenant {tenant} at {authority_url}; correct tenant, or authority_url for its cloud")
        }
        50_166 | 90_061 | 501_661 => {
            format!("Entra cannot fetch the keys of issuer {issuer}; it must be reachable from the internet")
        }
        50_013 | 7_000_272 => format!(
            "Entra cannot verify the assertion's signature; the issuer {issuer} must publish the key that signs it at \
             its discovery document, reachable from the internet"
        ),
        700_024 => "the assertion is outside its times; set this host's clock right, and see that the token file is \
                    renewed"
            .to_owned(),
        700_027 | 50_027 => {
            format!("the assertion is not one that Entra takes; its issuer is {issuer}, its audience {audience}")
        }
        70_011 | 1_002_012 => {
            format!("Entra refuses the scope {scope}; it must be a resource's URI followed by /.default")
        }
        500_011 | 650_057 | 65_001 => format!(
            "tenant {tenant} knows no resource for the scope {scope}; register its application there, or correct the \
             resource"
        ),
        53_003 | 53_011 => format!(
            "a conditional-access policy of tenant {tenant} blocks application {client_id} from here; admit the \
             broker's addresses"
        ),
        501_051 => {
            format!("application {client_id} has no role at the resource of {scope}, which demands one; assign it")
        }
        _ => format!("Entra refuses application {client_id} in tenant {tenant}; look its error number up"),
    };
    format!("{what} (AADSTS{code})")
}
