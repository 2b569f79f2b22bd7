//! What a vault, or whatever stands in its place, answers.

use azure_core::http::response::ResponseBody;
use keyferry_fuzz::Fuzz;

use super::answer::{Bundle, Described, DescribedPage, Refusal, read};

const WORDS: [&str; 9] = [
    "\"value\":",
    "\"id\":",
    "\"attributes\":",
    "\"enabled\":true",
    "\"nextLink\":",
    "\"innererror\":{",
    "\"code\":",
    "https://shop.vault.azure.net/secrets/",
    "\"tags\":",
];

#[test]
fn an_answer_of_a_vault_is_understood_or_refused() {
    Fuzz::new("vault-answers").words(&WORDS).allocating(1 << 16, 512).holds(|input| {
        let body = || ResponseBody::from_bytes(input.to_vec());
        let identified = |described: &Described| {
            let (name, version) = described.identity()?;
            assert!(!name.contains('/') && version.is_none_or(|version| !version.contains('/')));
            Some(())
        };
        let one = Bundle::read(body()).ok().and_then(|bundle| identified(&bundle.described));
        let page = read::<DescribedPage>(body()).map(|page| page.value.iter().filter_map(identified).count());
        let refusal = Refusal::read(input);
        (one.is_some() || page.unwrap_or_default() > 0 || refusal.is("Forbidden")).into()
    });
}
