//! Values, once they are known to be what they were declared to be. What Envoy could not use is not published.

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::parse_x509_certificate;

use super::resource::{Kind, Resource};
use crate::clock::Timestamp;
use crate::error::{Failure, Reason};
use crate::names::SecretName;
use crate::secrets::SecretBytes;

/// What a resource publishes.
#[allow(missing_debug_implementations, reason = "holds a secret")]
pub enum Material {
    TlsCertificate { chain: SecretBytes, key: SecretBytes },
    ValidationContext { ca: SecretBytes },
    Generic { secret: SecretBytes },
}

const CERTIFICATE: &str = "CERTIFICATE";
const PRIVATE_KEY: &str = "PRIVATE KEY";
const DAMAGED: &str = "holds a certificate that is damaged; store it again, with its line breaks";

impl Material {
    /// From the values of [`Resource::secrets`], in their order.
    pub fn check(resource: &Resource, values: &[SecretBytes], now: Timestamp) -> Result<Self, Failure> {
        let (first, last) = values
            .first()
            .zip(values.last())
            .ok_or_else(|| Failure::new(Reason::Internal, "a resource is made of no secret; report this"))?;
        match resource.kind {
            Kind::TlsCertificate => {
                let key_secret = resource.key.as_ref().unwrap_or(&resource.secret);
                // Apart, since Envoy shows chains in its configuration dump.
                let chain = blocks(first, CERTIFICATE);
                let key = blocks(last, PRIVATE_KEY);
                let certificates = certificates(&chain).map_err(unusable(&resource.secret))?;
                let leaf = certificates.first().map_or(Err(DAMAGED), |leaf| life(leaf));
                let Life { begins, ends } = leaf.map_err(unusable(&resource.secret))?;
                if ends <= now {
                    let what = format!("holds a certificate that ended at {ends}; store its successor");
                    return Err(unusable(&resource.secret)(what));
                }
                if begins > now {
                    let what = format!("holds a certificate that begins only at {begins}; it is published then");
                    return Err(unusable(&resource.secret)(what));
                }
                check_pair(certificates, &key).map_err(unusable(key_secret))?;
                Ok(Self::TlsCertificate { chain, key })
            }
            Kind::ValidationContext => {
                let ca = blocks(first, CERTIFICATE);
                let certificates = certificates(&ca).map_err(unusable(&resource.secret))?;
                let lives = certificates.iter().map(|der| life(der)).collect::<Result<Vec<_>, _>>();
                let lives = lives.map_err(unusable(&resource.secret))?;
                if lives.iter().all(|life| life.ends <= now) {
                    let what = "holds certificates that have all ended, so that nobody would pass; store current ones";
                    return Err(unusable(&resource.secret)(what));
                }
                if !lives.iter().any(|life| life.begins <= now && now < life.ends) {
                    let what = "holds no certificate that has begun, so that nobody would pass; it is published then";
                    return Err(unusable(&resource.secret)(what));
                }
                Ok(Self::ValidationContext { ca })
            }
            Kind::Generic if first.is_empty() => Err(unusable(&resource.secret)("is empty; store a value")),
            Kind::Generic => Ok(Self::Generic { secret: first.clone() }),
        }
    }
}

fn unusable<T: std::fmt::Display>(secret: &SecretName) -> impl FnOnce(T) -> Failure {
    move |what| Failure::new(Reason::ValueUnusable, format!("{secret} {what}"))
}

/// The PEM blocks of a text whose label ends so.
fn blocks(text: &SecretBytes, label: &str) -> SecretBytes {
    let text = text.expose();
    // In one buffer that never grows, so that no copy of a key is left behind.
    let mut found = Vec::with_capacity(text.len() + 1);
    let mut is_inside = false;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let trimmed = line.trim_ascii();
        let is = |edge: &str| {
            let label_of = trimmed.strip_prefix(edge.as_bytes()).and_then(|rest| rest.strip_suffix(b"-----"));
            label_of.is_some_and(|found| found.ends_with(label.as_bytes()) && !found.contains(&b'-'))
        };
        if is("-----BEGIN ") {
            is_inside = true;
        } else if trimmed.windows(5).any(|part| part == b"-----") && !is("-----END ") {
            // A block whose end was lost, or runs into the next one's beginning, must not take that one along.
            is_inside = false;
        }
        if is_inside {
            found.extend_from_slice(line);
        }
        if is("-----END ") {
            is_inside = false;
            if !line.ends_with(b"\n") {
                found.push(b'\n');
            }
        }
    }
    SecretBytes::new(found)
}

fn certificates(pem: &SecretBytes) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let found = CertificateDer::pem_slice_iter(pem.expose()).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if found.is_empty() => Err("holds no certificate; store it in PEM, from -----BEGIN CERTIFICATE on"),
        Ok(found) => Ok(found),
        Err(_) => Err(DAMAGED),
    }
}

/// Of a certificate.
struct Life {
    begins: Timestamp,
    ends: Timestamp,
}

fn life(der: &[u8]) -> Result<Life, &'static str> {
    let (_, certificate) = parse_x509_certificate(der).map_err(|_| DAMAGED)?;
    let [begins, ends] = [certificate.validity().not_before, certificate.validity().not_after]
        .map(|time| Timestamp::from_secs(u64::try_from(time.timestamp()).unwrap_or(0)));
    Ok(Life { begins, ends })
}

/// The parser's own errors quote the text, so they are dropped.
fn check_pair(chain: Vec<CertificateDer<'static>>, key: &SecretBytes) -> Result<(), &'static str> {
    if key.is_empty() {
        return Err("holds no private key; store it in PEM, beside the certificate or where `key` says");
    }
    let key = PrivateKeyDer::from_pem_slice(key.expose())
        .map_err(|_| "holds a private key that is damaged or under a passphrase; store it again, without")?;
    let key = default_provider()
        .key_provider
        .load_private_key(key)
        .map_err(|_| "holds a private key of a kind that is not in use; take ECDSA, or RSA of 2048 bits or more")?;
    CertifiedKey::new(chain, key)
        .keys_match()
        .map_err(|_| "holds a key that the certificate does not belong to; store the two that go together")
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn resource(kind: Kind, key: Option<&str>) -> Resource {
        let secret = |id: &str| SecretName::parse(&format!("stores/a/secrets/{id}")).unwrap();
        Resource { kind, secret: secret("web"), key: key.map(secret) }
    }

    fn issued(until: i32) -> (String, String) {
        issued_for(2000, until)
    }

    fn issued_for(from: i32, until: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["web.test".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn check(resource: &Resource, values: &[&str]) -> Result<Material, String> {
        let values: Vec<_> = values.iter().map(|value| SecretBytes::new(value.as_bytes().to_vec())).collect();
        Material::check(resource, &values, NOW).map_err(|failure| {
            assert_eq!(failure.reason(), Reason::ValueUnusable);
            failure.message().to_owned()
        })
    }

    #[test]
    fn a_certificate_and_its_key_are_taken_from_one_secret_or_from_two_and_are_published_apart() {
        let (certificate, key) = issued(2090);
        let both = format!("{key}{}", certificate.trim_end());
        for (resource, values) in [
            (resource(Kind::TlsCertificate, None), vec![both.as_str()]),
            (resource(Kind::TlsCertificate, Some("key")), vec![both.as_str(), key.as_str()]),
        ] {
            let Ok(Material::TlsCertificate { chain, key: published }) = check(&resource, &values) else { panic!() };
            assert_eq!(chain.expose(), certificate.as_bytes(), "the key is not in what Envoy shows");
            assert_eq!(published.expose(), key.as_bytes());
        }
    }

    #[test]
    fn what_envoy_could_not_use_is_refused_by_what_is_wrong_with_it() {
        let tls = resource(Kind::TlsCertificate, Some("key"));
        let ((certificate, key), (_, other)) = (issued(2090), issued(2090));
        let (ended, ended_key) = issued(2020);
        let (early, early_key) = issued_for(2080, 2090);
        let damaged = certificate.replace("MII", "!!!");
        let cases: [(&Resource, &[&str], &str); 11] = [
            (&tls, &["", &key], "secrets/web holds no certificate"),
            (&tls, &[&damaged, &key], "that is damaged"),
            (&tls, &[&certificate, ""], "secrets/key holds no private key"),
            (&tls, &[&certificate, &key.replace("MIG", "!!!")], "damaged or under a passphrase"),
            (&tls, &[&certificate, &other], "does not belong to"),
            (&tls, &[&ended, &ended_key], "ended at 2020-01-01"),
            (&tls, &[&early, &early_key], "begins only at 2080-01-01"),
            (&resource(Kind::ValidationContext, None), &[&key], "holds no certificate"),
            (&resource(Kind::ValidationContext, None), &[&ended], "have all ended"),
            (&resource(Kind::ValidationContext, None), &[&format!("{ended}{early}")], "has begun"),
            (&resource(Kind::Generic, None), &[""], "is empty"),
        ];
        for (resource, values, expected) in cases {
            let message = check(resource, values).err().unwrap_or_default();
            assert!(message.contains(expected), "{message:?} where {expected:?} was due");
            assert!(!message.contains("MI"), "{message:?} quotes the value");
        }
    }

    #[test]
    fn a_key_that_runs_on_from_a_certificate_without_a_line_between_is_not_published_with_it() {
        let (certificate, key) = issued(2090);
        let run_together = format!("{}{key}", certificate.trim_end());
        let tls = resource(Kind::TlsCertificate, Some("key"));
        for (resource, values) in [
            (&tls, vec![run_together.as_str(), &key]),
            (&resource(Kind::ValidationContext, None), vec![run_together.as_str()]),
        ] {
            let message = check(resource, &values).err().unwrap_or_default();
            assert!(message.contains("that is damaged"), "{message:?}");
        }
    }

    #[test]
    fn a_ca_goes_on_beside_others_that_have_ended_or_not_begun() {
        let bundle = format!("{}{}{}", issued(2020).0, issued(2090).0, issued_for(2080, 2090).0);
        let found = check(&resource(Kind::ValidationContext, None), &[&bundle]);
        assert!(matches!(found, Ok(Material::ValidationContext { ca }) if ca.expose() == bundle.as_bytes()));
    }
}
