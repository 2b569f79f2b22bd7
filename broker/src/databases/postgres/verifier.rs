//! What the server keeps of a password, made here so that it never sees the password itself.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::databases::users::fill_random;
use crate::error::Failure;

/// What clients insist on, whatever a password is worth.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).unwrap();

/// The SCRAM-SHA-256 verifier of a password of our own making: ASCII, which needs no preparation (RFC 4013).
///
/// By hand, because its iterations are most of what a mint costs the broker, and aws-lc does them in two thirds of the time.
pub(super) fn verifier(password: &[u8]) -> Result<String, Failure> {
    let mut salt = [0; 16];
    fill_random(&mut salt)?;
    Ok(salted(password, &salt))
}

fn salted(password: &[u8], salt: &[u8]) -> String {
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, salt, password, &mut salted);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let stored = digest::digest(&digest::SHA256, hmac::sign(&key, b"Client Key").as_ref());
    let server = hmac::sign(&key, b"Server Key");
    let [salt, stored, server] = [salt, stored.as_ref(), server.as_ref()].map(|bytes| STANDARD.encode(bytes));
    format!("SCRAM-SHA-256${ITERATIONS}:{salt}${stored}:{server}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_example_of_rfc_7677() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let keys = "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        assert_eq!(salted(b"pencil", &salt), format!("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==${keys}"));
    }

    #[test]
    fn no_two_verifiers_share_a_salt() {
        assert_ne!(verifier(b"pencil").unwrap(), verifier(b"pencil").unwrap());
    }
}
