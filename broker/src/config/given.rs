//! The value of a key: where it was given, and how it is read.

use std::sync::Arc;

use toml::Spanned;
use toml::de::DeValue;

use super::document::{quoted, shown, type_of};
use super::kind::{Kind, Shape};
use super::problem::Place;
use super::reader::UsedFile;
use super::section::Section;

pub(super) enum Given<'d> {
    InFile(&'d Spanned<DeValue<'d>>),
    InVariable(String),
}

impl<'d> Section<'_, 'd> {
    pub(super) fn given(&self, key: &str) -> Option<Given<'d>> {
        if self.is_foreign() {
            return None;
        }
        match self.reader.environment.get(&self.variable(key)) {
            Some(text) => Some(Given::InVariable(text.to_owned())),
            None => self.table?.get(key).map(Given::InFile),
        }
    }

    pub(super) fn read<T>(&mut self, key: &str, kind: &Kind<T>, given: &Given<'d>) -> Option<T> {
        match given {
            Given::InVariable(text) => {
                let place = Place::Variable(self.variable(key));
                self.parse(key, kind, text, place)
            }
            Given::InFile(value) => {
                let place = self.reader.document.place(value.span().start);
                match text_of(kind.shape, value.get_ref()) {
                    Some(text) => self.parse(key, kind, &text, place),
                    None => {
                        let fault = self.wrong_type(value);
                        self.note(place, key, &format!("{fault}; write {}", kind.expects));
                        None
                    }
                }
            }
        }
    }

    pub(super) fn read_list<T: PartialEq>(&mut self, key: &str, kind: &Kind<T>, given: Given<'d>) -> Option<Vec<T>> {
        let elements: Vec<Given<'d>> = match given {
            Given::InVariable(text) => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                parts.map(|part| Given::InVariable(part.to_owned())).collect()
            }
            Given::InFile(value) => match value.get_ref() {
                DeValue::Array(array) => array.iter().map(Given::InFile).collect(),
                DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_)
                | DeValue::Table(_) => {
                    let found = type_of(value.get_ref());
                    self.refuse(key, &format!("is {found}; write a list, each {}", kind.expects));
                    return None;
                }
            },
        };
        let mut values = Vec::with_capacity(elements.len());
        let mut is_whole = true;
        for element in elements {
            match self.read(key, kind, &element) {
                Some(value) if values.contains(&value) => {
                    let place = self.place_given(key, &element);
                    self.note(place, key, "names the same twice; remove one");
                }
                Some(value) => values.push(value),
                None => is_whole = false,
            }
        }
        is_whole.then_some(values)
    }

    pub(super) fn parse<T>(&mut self, key: &str, kind: &Kind<T>, text: &str, place: Place) -> Option<T> {
        match (kind.parse)(text, self.reader.directory) {
            Ok(value) => {
                if let Some(file_use) = kind.file.filter(|_| !self.is_foreign()) {
                    let path = self.reader.directory.join(text);
                    let key = format!("[{}] {key}", self.title);
                    self.reader.files.push(UsedFile { path, file_use, key, place });
                }
                Some(value)
            }
            Err(fault) => {
                let text = match kind.shape {
                    Shape::String => quoted(text),
                    Shape::Integer | Shape::Boolean => shown(text),
                };
                self.note(place, key, &format!("{text} {fault}; write {}", kind.expects));
                None
            }
        }
    }

    fn wrong_type(&self, value: &Spanned<DeValue<'_>>) -> String {
        let found = type_of(value.get_ref());
        match value.get_ref() {
            DeValue::Array(_) | DeValue::Table(_) => format!("is {found}"),
            DeValue::String(text) => format!("{} is {found}", quoted(text)),
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {
                format!("{} is {found}", self.reader.document.source(value))
            }
        }
    }

    pub(super) fn place_of(&self, key: &str) -> Place {
        match self.given(key) {
            Some(given) => self.place_given(key, &given),
            None => self.header.clone().unwrap_or(Place::File),
        }
    }

    pub(super) fn place_given(&self, key: &str, given: &Given<'_>) -> Place {
        match given {
            Given::InVariable(_) => Place::Variable(self.variable(key)),
            Given::InFile(value) => self.reader.document.place(value.span().start),
        }
    }
}

/// The value as its variable would hold it, where it has the right type.
fn text_of(shape: Shape, value: &DeValue<'_>) -> Option<Arc<str>> {
    match (shape, value) {
        (Shape::String, DeValue::String(text)) => Some(text.as_ref().into()),
        (Shape::Boolean, DeValue::Boolean(true)) => Some("true".into()),
        (Shape::Boolean, DeValue::Boolean(false)) => Some("false".into()),
        (Shape::Integer, DeValue::Integer(number)) => {
            let decimal = i128::from_str_radix(number.as_str(), number.radix());
            Some(decimal.map_or_else(|_| number.as_str().into(), |number| number.to_string().into()))
        }
        _ => None,
    }
}
