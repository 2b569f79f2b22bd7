//! One table of the file. Asking it for a key declares the key: its name, kind, default and meaning.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::document::{shown, type_of};

use super::environment::variable;
use super::given::Given;
use super::kind::{Kind, Shape};
use super::problem::Place;
use super::reader::{Reader, UnknownKey};
use super::reference::Row;

pub(super) struct Section<'r, 'd> {
    pub(super) reader: &'r mut Reader<'d>,
    pub(super) title: String,
    page: usize,
    pub(super) table: Option<&'d DeTable<'d>>,
    pub(super) header: Option<Place>,
    known: Vec<&'static str>,
    /// Keys of the kinds of entry that this one is not.
    foreign: BTreeMap<&'static str, Owner>,
    variant: Option<Variant>,
    refused: Vec<String>,
}

#[derive(Clone, Copy)]
struct Variant {
    owner: Owner,
    /// Without a readable choice nothing can be said about the keys of any.
    is_chosen: Option<bool>,
}

/// The choice that a key belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    /// The key that chooses.
    pub(super) chooser: &'static str,
    pub(super) name: &'static str,
}

impl<'r, 'd> Section<'r, 'd> {
    pub(super) fn new(
        reader: &'r mut Reader<'d>,
        title: String,
        page: usize,
        table: Option<&'d DeTable<'d>>,
        header: Option<Place>,
    ) -> Self {
        Self {
            reader,
            title,
            page,
            table,
            header,
            known: Vec::new(),
            foreign: BTreeMap::new(),
            variant: None,
            refused: Vec::new(),
        }
    }

    pub(super) fn with_default<T>(
        &mut self,
        key: &'static str,
        kind: Kind<T>,
        default: &str,
        meaning: &'static str,
    ) -> T {
        let literal = match kind.shape {
            Shape::String => format!("`\"{default}\"`"),
            Shape::Integer | Shape::Boolean => format!("`{default}`"),
        };
        self.with_known_default(key, kind, default, literal, meaning)
    }

    /// A default that is only known when the broker starts; `shown` is its description.
    pub(super) fn with_known_default<T>(
        &mut self,
        key: &'static str,
        kind: Kind<T>,
        default: &str,
        shown: String,
        meaning: &'static str,
    ) -> T {
        self.declare(key, kind.summary.clone(), shown, meaning);
        match self.given(key) {
            Some(given) => self.read(key, &kind, &given).unwrap_or(kind.placeholder),
            None => {
                let place = self.header.clone().unwrap_or(Place::File);
                self.parse(key, &kind, default, place).unwrap_or(kind.placeholder)
            }
        }
    }

    pub(super) fn required<T>(&mut self, key: &'static str, kind: Kind<T>, meaning: &'static str) -> T {
        match self.chosen(key, &kind, meaning) {
            Some(value) => value,
            None => kind.placeholder,
        }
    }

    /// `None` only where a problem has been noted.
    pub(super) fn chosen<T>(&mut self, key: &'static str, kind: &Kind<T>, meaning: &'static str) -> Option<T> {
        self.declare(key, kind.summary.clone(), REQUIRED.to_owned(), meaning);
        match self.given(key) {
            Some(given) => self.read(key, kind, &given),
            None => {
                self.missing(key, &format!("is missing; write {}", kind.expects));
                None
            }
        }
    }

    /// A required key that means nothing without its partner.
    pub(super) fn required_beside<T>(
        &mut self,
        key: &'static str,
        partner: &'static str,
        kind: Kind<T>,
        meaning: &'static str,
    ) -> T {
        if self.is_given(key) || !self.is_given(partner) {
            return self.required(key, kind, meaning);
        }
        self.declare(key, kind.summary, REQUIRED.to_owned(), meaning);
        let advice = format!("is missing although {partner} is given, and they work only together");
        self.missing(key, &format!("{advice}; write {}", kind.expects));
        kind.placeholder
    }

    pub(super) fn optional<T>(&mut self, key: &'static str, kind: &Kind<T>, meaning: &'static str) -> Option<T> {
        self.declare(key, kind.summary.clone(), NONE.to_owned(), meaning);
        let given = self.given(key)?;
        self.read(key, kind, &given)
    }

    /// Without defaults, at least one element must be given.
    pub(super) fn list<T: PartialEq>(
        &mut self,
        key: &'static str,
        kind: &Kind<T>,
        default: &[&str],
        meaning: &'static str,
    ) -> Vec<T> {
        let literal = if default.is_empty() { REQUIRED.to_owned() } else { format!("`{default:?}`") };
        self.declare(key, format!("list of {}", kind.summary), literal, meaning);
        let Some(given) = self.given(key) else {
            if default.is_empty() {
                self.missing(key, &format!("is missing; write a list, each {}", kind.expects));
            }
            let place = self.header.clone().unwrap_or(Place::File);
            let values = default.iter().map(|text| self.parse(key, kind, text, place.clone()));
            return values.collect::<Option<_>>().unwrap_or_default();
        };
        let place = self.place_of(key);
        match self.read_list(key, kind, given) {
            Some(values) if values.is_empty() => {
                self.note(place, key, &format!("is empty; write a list, each {}", kind.expects));
                values
            }
            values => values.unwrap_or_default(),
        }
    }

    pub(super) fn list_or_empty<T: PartialEq>(
        &mut self,
        key: &'static str,
        kind: &Kind<T>,
        meaning: &'static str,
    ) -> Vec<T> {
        self.declare(key, format!("list of {}", kind.summary), "`[]`".to_owned(), meaning);
        let given = self.given(key);
        given.and_then(|given| self.read_list(key, kind, given)).unwrap_or_default()
    }

    /// A table of names; it has no variable.
    pub(super) fn map<T>(
        &mut self,
        key: &'static str,
        name: impl Fn(&str) -> Result<(), String>,
        kind: &Kind<T>,
        meaning: &'static str,
    ) -> BTreeMap<String, T> {
        let row = Row {
            key,
            summary: format!("table of {}", kind.summary),
            default: "`{}`".to_owned(),
            variable: None,
            meaning,
            variant: None,
        };
        self.add_row(row);
        let Some(value) = self.table.and_then(|table| table.get(key)) else {
            return BTreeMap::new();
        };
        let DeValue::Table(table) = value.get_ref() else {
            let found = type_of(value.get_ref());
            self.refuse(key, &format!("is {found}; write a table, NAME = {}", kind.expects));
            return BTreeMap::new();
        };
        let mut entries = BTreeMap::new();
        for (id, value) in table {
            let id_shown = format!("{key}.{}", shown(id.get_ref()));
            if let Err(fault) = name(id.get_ref()) {
                let place = self.reader.document.place(id.span().start);
                self.note(place, &id_shown, &format!("the name {fault}; correct it"));
            } else if let Some(value) = self.read(&id_shown, kind, &Given::InFile(value)) {
                entries.insert(id.get_ref().to_string(), value);
            }
        }
        entries
    }

    /// The tables `[page.NAME]` within this entry, under the key that `page` ends in.
    pub(super) fn named<K: Ord, V>(
        &mut self,
        page: &'static str,
        about: &'static str,
        name: impl Fn(&str) -> Result<K, String>,
        mut read: impl FnMut(&mut Section<'_, 'd>) -> V,
    ) -> BTreeMap<K, V> {
        let key = page.rsplit('.').next().unwrap_or(page);
        self.known.push(key);
        let value = self.table.and_then(|table| table.get(key));
        let title = format!("{}.{key}", self.title);
        let page = self.reader.page(page, about, true);
        self.reader.entries(&title, page, value, name, &mut read)
    }

    /// Reads the keys of one kind of entry. For a kind that was not chosen, they are refused where they are given.
    pub(super) fn variant<T>(
        &mut self,
        name: &'static str,
        is_chosen: Option<bool>,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.variant_by("kind", name, is_chosen, read)
    }

    /// The same where another key than `kind` chooses.
    pub(super) fn variant_by<T>(
        &mut self,
        chooser: &'static str,
        name: &'static str,
        is_chosen: Option<bool>,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.variant = Some(Variant { owner: Owner { chooser, name }, is_chosen });
        let value = read(self);
        self.variant = None;
        value
    }

    /// Notes a problem that shows only when several keys are looked at together.
    pub(super) fn refuse(&mut self, key: &str, message: &str) {
        let place = self.place_of(key);
        self.note(place, key, message);
    }

    pub(super) fn refuse_missing(&mut self, key: &str, message: &str) {
        if self.is_given(key) {
            self.refuse(key, message);
        } else {
            self.missing(key, message);
        }
    }

    /// Whether these keys were read without a complaint, so that comparing them makes sense.
    pub(super) fn are_sound(&self, keys: &[&str]) -> bool {
        self.refused.iter().all(|refused| !keys.contains(&refused.as_str()))
    }

    pub(super) fn is_given(&self, key: &str) -> bool {
        self.given(key).is_some()
    }

    pub(super) fn finish(self) {
        for (id, _) in self.table.into_iter().flatten() {
            let key: &str = id.get_ref();
            if !self.known.contains(&key) {
                self.reader.unknown(UnknownKey {
                    section: self.title.clone(),
                    page: self.page,
                    key: key.to_owned(),
                    place: self.reader.document.place(id.span().start),
                    owner: self.foreign.get(key).copied(),
                });
            }
        }
    }

    fn declare(&mut self, key: &'static str, summary: String, default: String, meaning: &'static str) {
        let variable = self.variable(key);
        if let Some(Variant { owner, is_chosen: Some(false) }) = self.variant {
            self.foreign.insert(key, owner);
        } else if let Some((place, message)) =
            self.reader.environment.declare(&variable, &format!("[{}] {key}", self.title))
        {
            self.reader.refuse(place, message);
        }
        let variant = self.variant.map(|variant| variant.owner);
        self.add_row(Row { key, summary, default, variable: Some(variable), meaning, variant });
    }

    fn add_row(&mut self, row: Row) {
        if !self.is_foreign() {
            self.known.push(row.key);
        }
        if let Some(page) = self.reader.pages.get_mut(self.page)
            && page.rows.iter().all(|known| (known.key, known.variant) != (row.key, row.variant))
        {
            page.rows.push(row);
        }
    }

    pub(super) fn is_foreign(&self) -> bool {
        self.variant.is_some_and(|variant| variant.is_chosen == Some(false))
    }

    pub(super) fn variable(&self, key: &str) -> String {
        variable(&self.title, key)
    }

    fn missing(&mut self, key: &str, message: &str) {
        if !self.is_foreign() && self.variant.is_none_or(|variant| variant.is_chosen.is_some()) {
            let place = self.header.clone().unwrap_or(Place::File);
            let message = format!("[{}] {key}: {message}", self.title);
            self.reader.missing(place, message);
        }
    }

    pub(super) fn note(&mut self, place: Place, key: &str, message: &str) {
        self.refused.push(key.to_owned());
        let message = format!("[{}] {key}: {message}", self.title);
        self.reader.refuse(place, message);
    }
}

const REQUIRED: &str = "**required**";
const NONE: &str = "none";
