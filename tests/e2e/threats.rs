//! `docs/threats.md` is held to its word: each class has a countermeasure and tests, the tests exist and are run, and
//! each defect of others that the page lists is of a class on the page.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const CLASSES: &str = "## Tokens";
const PRECEDENTS: &str = "## Precedents";

#[test]
fn every_class_has_a_countermeasure_and_tests_that_are_run() {
    let (page, sources) = (page(), sources());
    let (classes, _) = classes_and_precedents(&page);
    let rows = rows(classes);
    assert!(rows.len() > 100, "the page was not understood: {rows:?}");
    let mut wrong = Vec::new();
    for row in &rows {
        let [class, countermeasure, tests] = &row[..] else { panic!("not three cells: {row:?}") };
        let tests: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        if class.is_empty() || countermeasure.is_empty() || tests.is_empty() {
            wrong.push(format!("{class}: something is missing"));
        }
        wrong
            .extend(tests.iter().filter(|test| !is_run(&sources, test)).map(|test| format!("{class}: no test {test}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_precedent_is_of_a_class_and_each_is_named_once() {
    let page = page();
    let (classes, after) = classes_and_precedents(&page);
    let classes: BTreeSet<String> = rows(classes).into_iter().map(|row| row[0].clone()).collect();
    let mut named = BTreeSet::new();
    let precedents = rows(after);
    assert!(precedents.len() > 50, "the list was not understood: {precedents:?}");
    for row in &precedents {
        let [precedent, class] = &row[..] else { panic!("not two cells: {row:?}") };
        assert!(classes.contains(class), "{precedent}: no class {class:?}");
        assert!(named.insert(precedent), "{precedent} is named twice");
    }
}

/// The threat model in words comes before both.
fn classes_and_precedents(page: &str) -> (&str, &str) {
    let (before, precedents) = page.split_once(PRECEDENTS).unwrap();
    (&before[before.find(CLASSES).unwrap()..], precedents)
}

/// The cells of all tables, without their heads.
fn rows(page: &str) -> Vec<Vec<String>> {
    let lines: Vec<&str> = page.lines().collect();
    let is_rule = |line: &&str| line.starts_with("|-");
    let is_head = |at: usize| lines.get(at + 1).is_some_and(is_rule);
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    (0..lines.len())
        .filter(|&at| lines[at].starts_with('|') && !is_rule(&lines[at]) && !is_head(at))
        .map(|at| cells(lines[at]))
        .collect()
}

/// Whether a function of this name is marked as a test, and not as one to leave out.
fn is_run(sources: &str, test: &str) -> bool {
    let Some(at) = sources.find(&format!("fn {test}(")) else { return false };
    let before = sources[..at].rsplit('\n').skip(1);
    let marks: Vec<&str> = before.map(str::trim).take_while(|line| line.starts_with("#[")).collect();
    marks.iter().any(|mark| mark.starts_with("#[test]") || mark.starts_with("#[tokio::test"))
        && !marks.iter().any(|mark| mark.starts_with("#[ignore"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn page() -> String {
    fs::read_to_string(root().join("docs/threats.md")).unwrap()
}

fn sources() -> String {
    let mut sources = String::new();
    for folder in ["broker/src", "proto/tests", "tests/e2e", "client/src", "client/tests"] {
        read_all(&root().join(folder), &mut sources);
    }
    sources
}

fn read_all(folder: &Path, into: &mut String) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            read_all(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}
