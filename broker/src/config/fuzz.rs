//! The configuration file, which a template or a hand may have left in any state.

use std::path::Path;

use keyferry_fuzz::Fuzz;

use super::{Config, Place};

const WORDS: [&str; 28] = [
    "[stores.a]\n",
    "[listen]\n",
    "[tls]\n",
    "[issuers.a]\n",
    "[rotations.a]\n",
    "[databases.a]\n",
    "[credentials.a]\n",
    "[events.a]\n",
    "[state]\n",
    "kind = \"gcp\"\n",
    "kind = \"azure\"\n",
    "kind = \"local\"\n",
    "kind = \"etcd\"\n",
    "kind = \"postgres\"\n",
    "\"1h\"",
    "\"off\"",
    "\"\"\"",
    "'''",
    " = ",
    "{ ",
    "[[",
    "\"stores/a/secrets/b\"",
    "\"https://a.example/\"",
    "\"10s\"",
    "targets = [",
    "roles",
    "schedule = \"* * * * *\"\n",
    "0x7fffffffffffffff",
];

#[test]
fn a_configuration_is_taken_or_its_problems_are_told_with_their_places() {
    Fuzz::new("configuration").words(&WORDS).inputs(2500).allocating(1 << 20, 4096).holds(|input| {
        let text = String::from_utf8_lossy(input);
        let read = || Config::parse(&text, Path::new("keyferry.toml"), [], "node-1");
        match read() {
            Ok(config) => assert_eq!(format!("{config:?}"), format!("{:?}", read().unwrap())),
            Err(problems) => {
                assert!(problems.iter().next().is_some());
                for problem in problems.iter() {
                    assert!(!problem.message().contains(char::is_control), "{problem}");
                    let Place::Line { line, column } = problem.place() else { continue };
                    let of_line = text.split('\n').nth(line - 1).unwrap_or_default();
                    assert!(*column <= of_line.chars().count() + 1, "{problem} in {of_line:?}");
                }
            }
        }
        read().is_ok().into()
    });
}
