//! One pass over a configuration: hands out its sections and keeps what all of them share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::{Document, shown, type_of};
use super::environment::Environment;
use super::kind::FileUse;
use super::problem::{Place, Problem, Problems};
use super::reference::Page;
use super::section::{Owner, Section};
use crate::suggestion::nearest;

/// Suggestions for more wrong keys than this help nobody and cost time.
const SUGGESTED: usize = 100;

pub(super) struct Reader<'d> {
    pub(super) document: Document<'d>,
    root: &'d DeTable<'d>,
    pub(super) environment: Environment,
    pub(super) directory: &'d Path,
    file: Arc<str>,
    /// There is no file: every section and every kind of entry shows itself once, for the reference.
    pub(super) describing: bool,
    pub(super) pages: Vec<Page>,
    pub(super) files: Vec<UsedFile>,
    problems: Vec<(Place, String)>,
    unknown: Vec<UnknownKey>,
}

/// A file that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UsedFile {
    pub(super) path: PathBuf,
    pub(super) file_use: FileUse,
    pub(super) key: String,
    pub(super) place: Place,
}

pub(super) struct UnknownKey {
    pub(super) section: String,
    pub(super) page: usize,
    pub(super) key: String,
    pub(super) place: Place,
    /// The choice that does have this key.
    pub(super) owner: Option<Owner>,
}

impl<'d> Reader<'d> {
    pub(super) fn new(document: Document<'d>, root: &'d DeTable<'d>, environment: Environment, path: &'d Path) -> Self {
        Self {
            document,
            root,
            environment,
            directory: path.parent().unwrap_or(Path::new("")),
            file: path.to_string_lossy().into(),
            describing: false,
            pages: Vec::new(),
            files: Vec::new(),
            problems: Vec::new(),
            unknown: Vec::new(),
        }
    }

    pub(super) fn section<T>(
        &mut self,
        title: &'static str,
        about: &'static str,
        read: impl FnOnce(&mut Section<'_, 'd>) -> T,
    ) -> T {
        let page = self.page(title, about, false);
        let found = self.root.get(title);
        let table = found.and_then(|value| self.table(title, title, value));
        let header = found.map(|value| self.document.place(value.span().start));
        self.read_table(title.to_owned(), page, table, header, read)
    }

    /// The tables `[title.NAME]`, each under the name that `name` makes of it.
    pub(super) fn named<K: Ord, T>(
        &mut self,
        title: &'static str,
        about: &'static str,
        name: impl Fn(&str) -> Result<K, String>,
        mut read: impl FnMut(&mut Section<'_, 'd>) -> T,
    ) -> BTreeMap<K, T> {
        let page = self.page(title, about, true);
        self.entries(title, page, self.root.get(title), name, &mut read)
    }

    /// The tables in `value`, which is `[title]`.
    pub(super) fn entries<K: Ord, T>(
        &mut self,
        title: &str,
        page: usize,
        value: Option<&'d Spanned<DeValue<'d>>>,
        name: impl Fn(&str) -> Result<K, String>,
        read: &mut dyn FnMut(&mut Section<'_, 'd>) -> T,
    ) -> BTreeMap<K, T> {
        let form = format!("{title}.NAME");
        if self.describing {
            self.read_table(form, page, None, None, read);
            return BTreeMap::new();
        }
        let found = value.and_then(|value| self.table(title, &form, value));
        let mut entries = BTreeMap::new();
        for (id, value) in found.into_iter().flatten() {
            let place = self.document.place(id.span().start);
            let section = format!("{title}.{}", shown(id.get_ref()));
            let key = match name(id.get_ref()) {
                Ok(key) => key,
                Err(fault) => {
                    self.refuse(place, format!("[{section}]: the name {fault}; choose another"));
                    continue;
                }
            };
            if let Some(table) = self.table(&section, &form, value) {
                let header = self.document.place(value.span().start);
                let entry = self.read_table(section, page, Some(table), Some(header), &mut *read);
                entries.insert(key, entry);
            }
        }
        entries
    }

    fn read_table<T>(
        &mut self,
        title: String,
        page: usize,
        table: Option<&'d DeTable<'d>>,
        header: Option<Place>,
        read: impl FnOnce(&mut Section<'_, 'd>) -> T,
    ) -> T {
        let mut section = Section::new(self, title, page, table, header);
        let value = read(&mut section);
        section.finish();
        value
    }

    fn table(&mut self, title: &str, form: &str, value: &'d Spanned<DeValue<'d>>) -> Option<&'d DeTable<'d>> {
        if let DeValue::Table(table) = value.get_ref() {
            return Some(table);
        }
        let place = self.document.place(value.span().start);
        let found = type_of(value.get_ref());
        self.refuse(place, format!("[{title}]: is {found}; write a table, [{form}]"));
        None
    }

    /// Each entry of a kind asks for the page of the entries within it; they share one.
    pub(super) fn page(&mut self, title: &'static str, about: &'static str, is_named: bool) -> usize {
        if let Some(known) = self.pages.iter().position(|page| page.title == title) {
            return known;
        }
        self.pages.push(Page { title, about, is_named, rows: Vec::new() });
        self.pages.len() - 1
    }

    pub(super) fn refuse(&mut self, place: Place, message: String) {
        self.problems.push((place, message));
    }

    /// After a syntax error, what seems to be missing may stand in the part that could not be read.
    pub(super) fn missing(&mut self, place: Place, message: String) {
        if self.document.syntax_errors.is_empty() {
            self.refuse(place, message);
        }
    }

    /// A kind of table of which one is needed, and there is none.
    pub(super) fn missing_entry(&mut self, title: &str, message: &str) {
        let found = self.root.get(title).map(|value| self.document.place(value.span().start));
        self.missing(found.unwrap_or(Place::File), format!("[{title}]: {message}"));
    }

    pub(super) fn unknown(&mut self, key: UnknownKey) {
        self.unknown.push(key);
    }

    /// To be called when all sections have been read.
    pub(super) fn finish(mut self) -> Result<(Vec<UsedFile>, Arc<str>), Problems> {
        self.explain_unknown_sections();
        self.explain_unknown_keys();
        let Self { document, mut problems, file, .. } = self;
        problems.extend(self.environment.unknown());
        problems.retain(|(place, _)| !document.is_stray(place));
        problems.extend(document.syntax_errors);
        problems.sort();
        problems.dedup();
        if problems.is_empty() {
            return Ok((self.files, file));
        }
        let problem = |(place, message)| Problem { place, message, file: file.clone() };
        Err(Problems(problems.into_iter().map(problem).collect()))
    }

    fn explain_unknown_sections(&mut self) {
        let titles: Vec<&str> = self.pages.iter().map(|page| page.title).filter(|title| !title.contains('.')).collect();
        let unknown = self.root.keys().filter(|key| !titles.contains(&key.get_ref().as_ref()));
        for (index, key) in unknown.enumerate() {
            let place = self.document.place(key.span().start);
            let near = nearest(key.get_ref(), titles.iter().copied());
            let advice = match near.filter(|_| index < SUGGESTED) {
                Some(near) => format!("did you mean [{near}]?"),
                None => format!("the sections are {}", titles.join(", ")),
            };
            let name = shown(key.get_ref());
            self.problems.push((place, format!("{name}: there is no such section; {advice}")));
        }
    }

    fn explain_unknown_keys(&mut self) {
        for (index, unknown) in std::mem::take(&mut self.unknown).into_iter().enumerate() {
            let UnknownKey { section, page, key, place, owner } = unknown;
            let message = match owner {
                Some(Owner { chooser, name }) => {
                    format!("belongs to {chooser} \"{name}\"; remove it, or change {chooser}")
                }
                None if index < SUGGESTED => {
                    format!("there is no such key; {}", self.advice_for(page, &key))
                }
                None => "there is no such key".to_owned(),
            };
            self.problems.push((place, format!("[{section}] {}: {message}", shown(&key))));
        }
    }

    fn advice_for(&self, page: usize, key: &str) -> String {
        // Kinds may share a key.
        let keys = |page: &'_ Page| {
            let mut keys = Vec::new();
            for row in &page.rows {
                if !keys.contains(&row.key) {
                    keys.push(row.key);
                }
            }
            keys
        };
        let own = self.pages.get(page).map(keys).unwrap_or_default();
        if let Some(near) = nearest(key, own.iter().copied()) {
            return format!("did you mean {near}?");
        }
        match self.pages.iter().find(|page| keys(page).contains(&key)) {
            Some(page) => format!("it belongs to [{}]", page.title),
            None => format!("its keys are {}", own.join(", ")),
        }
    }
}
