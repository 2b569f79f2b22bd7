//! What policy sees of a caller, whether that caller was authenticated or is only talked about.

use std::collections::{BTreeMap, HashMap};

use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};

use super::policy::QuestionError;
use crate::identity::token::{Claims, Token};
use crate::identity::{Caller, Certificate, SpiffeId};

/// Policies can be asked about it; the gate takes a [`Caller`] and never one of these, so nobody is admitted by it.
#[derive(Clone, Debug)]
pub struct Profile<'a> {
    pub id: &'a str,
    pub certificate: Option<CertificateFacts<'a>>,
    pub token: Option<TokenFacts<'a>>,
}

#[derive(Clone, Debug)]
pub struct CertificateFacts<'a> {
    pub thumbprint: String,
    pub dns_names: &'a [String],
    pub common_name: Option<&'a str>,
    /// A certificate that claims a SPIFFE id and has none is put to no policy.
    pub spiffe: Result<Option<&'a SpiffeId>, String>,
}

#[derive(Clone, Debug)]
pub struct TokenFacts<'a> {
    pub issuer: &'a str,
    pub subject: &'a str,
    pub audiences: Vec<&'a str>,
    pub claims: &'a Claims,
}

/// A caller in somebody's words. Owns what its [`Profile`] borrows.
#[derive(Clone, Debug)]
pub struct Description {
    id: String,
    certificate: Option<DescribedCertificate>,
    token: Option<DescribedToken>,
}

#[derive(Clone, Debug, Default)]
pub struct DescribedCertificate {
    pub thumbprint: String,
    pub common_name: Option<String>,
    pub dns_names: Vec<String>,
    pub spiffe: Option<SpiffeId>,
}

#[derive(Clone, Debug)]
struct DescribedToken {
    issuer: String,
    subject: String,
    claims: Claims,
}

impl<'a> Profile<'a> {
    pub fn of(caller: &'a Caller) -> Self {
        let certificate = caller.certificate().map(CertificateFacts::of);
        Self { id: caller.id(), certificate, token: caller.token().map(TokenFacts::of) }
    }

    pub(super) fn entity(&self, workload: &EntityTypeName) -> Result<Entity, QuestionError> {
        let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
        let mut attributes: HashMap<String, RestrictedExpression> = HashMap::new();
        if let Some(certificate) = &self.certificate {
            let mut fields = vec![
                ("thumbprint".to_owned(), text(&certificate.thumbprint)),
                (
                    "dnsNames".to_owned(),
                    RestrictedExpression::new_set(certificate.dns_names.iter().map(|name| text(name))),
                ),
            ];
            fields.extend(certificate.common_name.map(|name| ("commonName".to_owned(), text(name))));
            if let Some(id) = certificate.spiffe.clone()? {
                let spiffe =
                    [("trustDomain".to_owned(), text(id.trust_domain())), ("path".to_owned(), text(id.path()))];
                fields.push(("spiffe".to_owned(), RestrictedExpression::new_record(spiffe)?));
            }
            attributes.insert("certificate".to_owned(), RestrictedExpression::new_record(fields)?);
        }
        let mut tags: BTreeMap<String, Vec<RestrictedExpression>> = BTreeMap::new();
        if let Some(token) = &self.token {
            let fields = [
                ("issuer".to_owned(), text(token.issuer)),
                ("subject".to_owned(), text(token.subject)),
                (
                    "audiences".to_owned(),
                    RestrictedExpression::new_set(token.audiences.iter().map(|audience| text(audience))),
                ),
            ];
            attributes.insert("token".to_owned(), RestrictedExpression::new_record(fields)?);
            for (path, value) in token.claims.iter() {
                tags.entry(path.to_owned()).or_default().push(text(value));
            }
        }
        let tags = tags.into_iter().map(|(path, values)| (path, RestrictedExpression::new_set(values)));
        let uid = EntityUid::from_type_name_and_id(workload.clone(), EntityId::new(self.id));
        Ok(Entity::new_with_tags(uid, attributes, [], tags)?)
    }
}

impl<'a> CertificateFacts<'a> {
    pub fn of(certificate: &'a Certificate) -> Self {
        Self {
            thumbprint: certificate.thumbprint().to_string(),
            dns_names: certificate.dns_names(),
            common_name: certificate.common_name(),
            spiffe: certificate.spiffe_id().map_err(|error| error.to_string()),
        }
    }
}

impl<'a> TokenFacts<'a> {
    pub fn of(token: &'a Token) -> Self {
        Self {
            issuer: token.issuer_name(),
            subject: token.subject(),
            audiences: token.audiences().collect(),
            claims: token.claims(),
        }
    }
}

impl Description {
    /// `claims`: the JSON object that the token of an `oidc/…` caller would hold. A name in an `x509/…` id stands for a
    /// certificate with that name where none is described.
    pub fn new(id: &str, claims: &[u8], certificate: Option<DescribedCertificate>) -> Result<Self, String> {
        let shape = "is neither x509/{SPIFFE id or name} nor oidc/{issuer}/{subject}";
        if let Some(name) = id.strip_prefix("x509/") {
            let named = DescribedCertificate::named(name)?;
            let certificate = match certificate {
                Some(certificate) if certificate.bears(&named) => certificate,
                Some(_) => return Err(format!("has the name {name}, and the certificate described does not")),
                None => named,
            };
            return Ok(Self { id: id.to_owned(), certificate: Some(certificate), token: None });
        }
        let (issuer, subject) = id.strip_prefix("oidc/").and_then(|rest| rest.split_once('/')).ok_or(shape)?;
        if issuer.is_empty() || subject.is_empty() {
            return Err(shape.to_owned());
        }
        let claims =
            Claims::described(claims).map_err(|error| format!("has claims that no token could have: {error}"))?;
        let token = DescribedToken { issuer: issuer.to_owned(), subject: subject.to_owned(), claims };
        Ok(Self { id: id.to_owned(), certificate, token: Some(token) })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name of the issuer that an `oidc/…` caller has.
    pub fn issuer(&self) -> Option<&str> {
        self.token.as_ref().map(|token| token.issuer.as_str())
    }

    pub fn profile(&self) -> Profile<'_> {
        let token = self.token.as_ref().map(|token| TokenFacts {
            issuer: &token.issuer,
            subject: &token.subject,
            audiences: token.claims.get("aud").collect(),
            claims: &token.claims,
        });
        Profile { id: &self.id, certificate: self.certificate.as_ref().map(DescribedCertificate::facts), token }
    }
}

impl DescribedCertificate {
    /// The certificate that an identity by this name would come from.
    fn named(name: &str) -> Result<Self, String> {
        if name.is_empty() {
            return Err("names nobody after x509/".to_owned());
        }
        if SpiffeId::is_claimed_by(name) {
            let spiffe = SpiffeId::parse(name).map_err(|error| format!("is no SPIFFE identity: {error}"))?;
            return Ok(Self { spiffe: Some(spiffe), ..Self::default() });
        }
        Ok(match name.strip_prefix("CN=") {
            Some(name) => Self { common_name: Some(name.to_owned()), ..Self::default() },
            None => Self { dns_names: vec![name.to_owned()], ..Self::default() },
        })
    }

    fn bears(&self, named: &Self) -> bool {
        (named.spiffe.is_none() || named.spiffe == self.spiffe)
            && (named.common_name.is_none() || named.common_name == self.common_name)
            && named.dns_names.iter().all(|name| self.dns_names.contains(name))
    }

    pub fn facts(&self) -> CertificateFacts<'_> {
        CertificateFacts {
            thumbprint: self.thumbprint.clone(),
            dns_names: &self.dns_names,
            common_name: self.common_name.as_deref(),
            spiffe: Ok(self.spiffe.as_ref()),
        }
    }
}
