//! A value that nothing may tell, found in whatever form somebody told it.

use std::fs;
use std::path::Path;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// 32 letters and digits, which no text form escapes: JSON, URLs and Rust's `Debug` all leave them as they are.
#[derive(Clone, Debug)]
pub struct Canary(String);

impl Canary {
    pub fn hatch() -> Self {
        let mut random = [0; 15];
        SystemRandom::new().fill(&mut random).unwrap();
        Self(format!("kf{}", random.map(|byte| format!("{byte:02x}")).concat()))
    }

    /// Repeated, so that half of it tells too, between characters that forms do escape.
    pub fn value(&self) -> String {
        format!("\"\\%+/é{}\n", self.0).repeat(8)
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    /// What to look for.
    pub fn forms(&self) -> Vec<String> {
        let bytes = self.0.as_bytes();
        let mut forms = vec![self.0.clone()];
        for case in [|byte: &u8| format!("{byte:02x}"), |byte: &u8| format!("{byte:02X}")] {
            forms.push(bytes.iter().map(case).collect());
        }
        // `Debug` of bytes, and an array in JSON.
        for separator in [", ", ","] {
            forms.push(bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(separator));
        }
        for before in 0..3 {
            let padded = [&vec![0; before], bytes].concat();
            // Without the characters that depend on what comes before and after.
            let (first, end) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
            for encoded in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
                forms.push(encoded[first..end].to_owned());
            }
        }
        forms.sort();
        forms.dedup();
        forms
    }
}

/// What was said, with where.
#[derive(Debug, Default)]
pub struct Evidence(Vec<(String, Vec<u8>)>);

impl Evidence {
    pub fn add(&mut self, place: impl Into<String>, said: impl Into<Vec<u8>>) {
        self.0.push((place.into(), said.into()));
    }

    /// Every file in `directory` and below.
    pub fn add_files(&mut self, directory: &Path) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.add_files(&path);
            } else {
                self.add(path.display().to_string(), fs::read(&path).unwrap());
            }
        }
    }

    /// What of it is so called.
    pub fn of<'a>(&'a self, place: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |(named, _)| named.contains(place)).map(|(_, said)| said.as_slice())
    }

    /// Where one of `forms` was told, with what stands around it.
    pub fn telling(&self, forms: &[String]) -> Vec<String> {
        let mut found = Vec::new();
        for (place, said) in &self.0 {
            for form in forms {
                if let Some(at) = position(said, form.as_bytes()) {
                    let around = &said[at.saturating_sub(200)..(at + form.len() + 40).min(said.len())];
                    found.push(format!("{place}: {}", String::from_utf8_lossy(around)));
                }
            }
        }
        found
    }
}

fn position(text: &[u8], needle: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = text[from..].iter().position(|byte| *byte == needle[0]) {
        from += at;
        if text[from..].starts_with(needle) {
            return Some(from);
        }
        from += 1;
    }
    None
}
