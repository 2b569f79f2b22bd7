//! Templates, which may come from another hand than the file that they make.

use keyferry_fuzz::{Fuzz, Verdict};

use super::template::Template;

#[test]
fn a_template_names_secrets_or_says_in_which_line_it_fails() {
    let words = ["{{ ", " }}", "secret \"local/a\"", " | json \"b\"", " | base64", "stores/a/secrets/b", "\\\"", "\n"];
    Fuzz::new("template").words(&words).holds(|input| {
        let Ok(text) = str::from_utf8(input) else { return Verdict::Refused };
        match Template::parse(text) {
            Ok(template) => {
                let lines = 1..=text.split('\n').count();
                assert!(template.secrets().iter().all(|name| lines.contains(&template.line_of(name).unwrap())));
                Verdict::Accepted
            }
            Err(mistake) => {
                assert!((1..=text.split('\n').count()).contains(&mistake.line));
                Verdict::Refused
            }
        }
    });
}
