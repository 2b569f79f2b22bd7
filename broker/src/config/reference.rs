//! The reference page, made of the declarations that read the configuration.

use std::fmt::Write as _;
use std::path::Path;

use super::Config;
use super::document::Document;
use super::environment::{Environment, RESERVED};
use super::reader::Reader;
use super::section::Owner;

/// One section, or one kind of named table.
pub(super) struct Page {
    pub(super) title: &'static str,
    pub(super) about: &'static str,
    pub(super) is_named: bool,
    pub(super) rows: Vec<Row>,
}

pub(super) struct Row {
    pub(super) key: &'static str,
    pub(super) summary: String,
    pub(super) default: String,
    pub(super) variable: Option<String>,
    pub(super) meaning: &'static str,
    /// The choice that has this key; all have it without one.
    pub(super) variant: Option<Owner>,
}

pub(super) const SMALLEST: &str = r#"[tls]
certificate = "server.pem"
key = "server.key"
client_ca = ["clients.pem"]

[policy]
directory = "policy"

[credentials.google]
kind = "google-metadata"

[stores.main]
kind = "gcp"
project = "example-project"
"#;

/// `docs/configuration.md`
pub fn reference() -> String {
    let (document, root) = Document::parse("");
    let mut reader = Reader::new(document, &root, Environment::default(), Path::new(""));
    reader.describing = true;
    Config::read(&mut reader, "");
    let mut page = introduction();
    for section in &reader.pages {
        write_section(&mut page, section);
    }
    page
}

fn introduction() -> String {
    format!(
        "# Configuration

Generated from `broker/src/config`; do not edit.

Keyferry reads one TOML file. An unknown key or section, a wrong type or a value out of range is refused, and all errors
are reported together, each with its line. `keyferry check` does that without starting anything, and looks at the files
that the configuration names. The smallest useful file:

```toml
{SMALLEST}```

- A **path** is relative to the directory of the configuration file.
- A **duration** is a whole number and a unit: `ms`, `s`, `m` or `h`, such as `\"250ms\"`.
- A **size** is a whole number and a unit: `B`, `KiB`, `MiB` or `GiB`, such as `\"256KiB\"`.
- An **address** is `\"IP:PORT\"`, `\"[IPv6]:PORT\"`, or `\":PORT\"` for all interfaces.
- A **variable** overrides its key in the file. A list is written in it with commas. A variable cannot declare a new
  `[issuers.NAME]`, `[credentials.NAME]` or `[stores.NAME]`; for one that the file declares, NAME is written in capitals, with `_` for `-`.
- A variable that begins with `KEYFERRY_` and belongs to no key is an error, except {reserved} and those that Kubernetes
  sets to describe a service of that name.
",
        reserved = RESERVED.map(|name| format!("`{name}`")).join(", "),
    )
}

fn write_section(page: &mut String, section: &Page) {
    let Page { title, about, is_named, rows } = section;
    let suffix = if *is_named { ".NAME" } else { "" };
    // Writing to a string cannot fail.
    let _ = write!(page, "\n## `[{title}{suffix}]`\n\n{about}\n\n");
    page.push_str("| key | type | default | variable | meaning |\n|---|---|---|---|---|\n");
    for Row { key, summary, default, variable, meaning, variant } in rows {
        let variable = variable.as_ref().map_or("none".to_owned(), |name| format!("`{name}`"));
        let variant = variant.map_or(String::new(), |owner| match owner.chooser {
            "kind" => format!("Kind `{}`: ", owner.name),
            chooser => format!("With `{chooser} = \"{}\"`: ", owner.name),
        });
        let _ = writeln!(page, "| `{key}` | {summary} | {default} | {variable} | {variant}{meaning} |");
    }
}
