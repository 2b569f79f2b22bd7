//! What token endpoints answer.

use keyferry_fuzz::Fuzz;

use super::api_error::{ApiError, OAuthError};
use super::token::read_answer;
use crate::clock::Timestamp;

const WORDS: [&str; 10] = [
    "\"access_token\":",
    "\"expires_in\":",
    "\"expires_on\":",
    "3600",
    "\"3600\"",
    "\"error\":",
    "\"invalid_grant\"",
    "\"error_codes\":[",
    "AADSTS700016:",
    "\"details\":[{\"reason\":",
];

#[test]
fn a_token_that_is_taken_fits_into_a_header_and_ends_and_errors_are_known_words() {
    let now = Timestamp::from_secs(1_800_000_000);
    Fuzz::new("token-answers").words(&WORDS).allocating(1 << 16, 512).holds(|input| {
        let token = read_answer("a test", input, now);
        if let Ok(token) = &token {
            assert!(http::HeaderValue::from_str(token.value()).is_ok());
            assert!(token.expires > now);
        }
        let told = OAuthError::read(input);
        let known = told.code().len() + usize::from(told.aadsts.is_some()) + ApiError::read(input).reason.len();
        (token.is_ok() || known > 0).into()
    });
}
