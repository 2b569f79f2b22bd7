//! A client assertion against the federated credentials of an application: exact, down to the case of a letter.

use super::token::Refused;
use super::{Application, Entra, FederatedCredential};
use crate::doubles::identity::presented::{Distrust, Presented};

impl Entra {
    pub(super) async fn judge(&self, application: &Application, assertion: &str) -> Result<(), Refused> {
        let presented = Presented::parse(assertion).ok_or_else(|| {
            Refused::request("invalid_request", 50_027, "JWT token is invalid or malformed.".to_owned())
        })?;
        let trusted = matching(application, &presented)?;
        let now = self.clock.now();
        presented.verify(&trusted.issuer, now).await.map_err(|distrust| match distrust {
            Distrust::IssuerUnreachable => {
                Refused::request("invalid_request", 50_166, "Request to External OIDC endpoint failed.".to_owned())
            }
            Distrust::UnknownKey => Refused::client(
                7_000_272,
                format!(
                    "The certificate used to sign the federated credential could not be found in the metadata of \
                     identity provider {}. Please validate that your Identity Provider's metadata exposes the key used \
                     to sign the incoming token.",
                    trusted.issuer
                ),
            ),
            Distrust::Signature => {
                let said = "Assertion failed signature validation. \
                            [Reason - The provided signature value did not match the expected signature value.]";
                Refused::client(50_013, said.to_owned())
            }
            Distrust::Outdated => Refused::client(
                700_024,
                format!(
                    "Client assertion is not within its valid time range. Current time: {now}, expiry time of \
                     assertion {}.",
                    presented.claims["exp"]
                ),
            ),
        })
    }
}

/// Issuer, then subject, then audience: the first that matches nothing is the one complained about.
fn matching<'a>(application: &'a Application, presented: &Presented) -> Result<&'a FederatedCredential, Refused> {
    if application.trusted.is_empty() {
        let said = format!("The client '{}' has no configured federated identity credentials.", application.client_id);
        return Err(Refused::client(70_025, said));
    }
    let complain = |code, what: &str, value: &str, hint: &str| {
        let said = format!(
            "No matching federated identity record found for presented assertion {what} '{value}'. {hint}Check your \
             federated identity credential Subject, Audience and Issuer against the presented assertion."
        );
        Err(Refused::client(code, said))
    };
    let (issuer, subject) = (presented.claim("iss"), presented.claim("sub"));
    let of_issuer: Vec<_> = application.trusted.iter().filter(|trusted| trusted.issuer == issuer).collect();
    if of_issuer.is_empty() {
        return complain(700_211, "issuer", issuer, "");
    }
    let of_subject: Vec<_> = of_issuer.iter().filter(|trusted| trusted.subject == subject).collect();
    if of_subject.is_empty() {
        let but_for_case = of_issuer.iter().any(|trusted| trusted.subject.eq_ignore_ascii_case(subject));
        return if but_for_case {
            let hint = "The subject matches with case-insensitive comparison, but not with case-sensitive comparison. ";
            complain(7_002_138, "subject", subject, hint)
        } else {
            complain(700_213, "subject", subject, "")
        };
    }
    let of_audience = of_subject.iter().find(|trusted| presented.is_for(&[&trusted.audience]));
    of_audience.map_or_else(|| complain(700_212, "audience", presented.claim("aud"), ""), |trusted| Ok(trusted))
}
