//! What a key may hold. One `Kind` reads a value from the file, from a variable and from its own default,
//! and says the same in an error as in the reference.

use std::net::{Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

type Parse<T> = Box<dyn Fn(&str, &Path) -> Result<T, String>>;

pub(super) struct Kind<T> {
    pub(super) shape: Shape,
    /// Ends the sentence "write …".
    pub(super) expects: String,
    /// The same, for the reference.
    pub(super) summary: String,
    /// Stands in for a value that could not be read; a configuration that has one is never returned.
    pub(super) placeholder: T,
    /// Given the text and the directory of the file; an error ends the sentence `"text" …`.
    pub(super) parse: Parse<T>,
    pub(super) file: Option<FileUse>,
}

/// How TOML writes it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    String,
    Integer,
    Boolean,
}

/// What must be true of a file by the time the broker starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileUse {
    Read,
    ReadPrivately,
    /// Made on first start; nobody else may read it.
    MadePrivately,
    Directory,
}

impl<T> Kind<T> {
    fn string(
        expects: impl Into<String>,
        summary: impl Into<String>,
        placeholder: T,
        parse: impl Fn(&str) -> Result<T, String> + 'static,
    ) -> Self {
        Self {
            shape: Shape::String,
            expects: expects.into(),
            summary: summary.into(),
            placeholder,
            parse: Box::new(move |text, _| parse(text)),
            file: None,
        }
    }
}

pub(super) fn boolean() -> Kind<bool> {
    Kind {
        shape: Shape::Boolean,
        ..Kind::string("true or false", "boolean", false, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("is neither".to_owned()),
        })
    }
}

pub(super) fn count<T>(range: RangeInclusive<u64>) -> Kind<T>
where
    T: TryFrom<u64> + From<u8>,
{
    let (least, most) = (*range.start(), *range.end());
    let parse = move |text: &str| match text.parse::<u64>() {
        Ok(count) if range.contains(&count) => T::try_from(count).map_err(|_| OUT_OF_RANGE.to_owned()),
        Ok(_) => Err(OUT_OF_RANGE.to_owned()),
        Err(_) if is_integer(text) => Err(OUT_OF_RANGE.to_owned()),
        Err(_) => Err("is not a whole number".to_owned()),
    };
    Kind {
        shape: Shape::Integer,
        ..Kind::string(
            format!("a whole number from {least} to {most}"),
            format!("number, {least} to {most}"),
            T::from(0),
            parse,
        )
    }
}

const OUT_OF_RANGE: &str = "is out of range";

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

const TIME_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// From and to are written as a reader would write them: `duration("1s", "24h")`.
pub(super) fn duration(least: &'static str, most: &'static str) -> Kind<Duration> {
    Kind::string(
        format!("a duration from \"{least}\" to \"{most}\": a number and ms, s, m or h"),
        format!("duration, {least} to {most}"),
        Duration::ZERO,
        move |text| within(text, least, most, &TIME_UNITS).map(Duration::from_millis),
    )
}

/// As in a configuration file, for options of commands.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    quantity(text, &TIME_UNITS).map(Duration::from_millis)
}

pub(super) fn size<T>(least: &'static str, most: &'static str) -> Kind<T>
where
    T: TryFrom<u64> + From<u8>,
{
    Kind::string(
        format!("a size from \"{least}\" to \"{most}\": a number and B, KiB, MiB or GiB"),
        format!("size, {least} to {most}"),
        T::from(0),
        move |text| {
            let bytes = within(text, least, most, &SIZE_UNITS)?;
            T::try_from(bytes).map_err(|_| OUT_OF_RANGE.to_owned())
        },
    )
}

fn within(text: &str, least: &str, most: &str, units: &[(&str, u64)]) -> Result<u64, String> {
    let amount = quantity(text, units)?;
    let range = quantity(least, units)?..=quantity(most, units)?;
    if range.contains(&amount) { Ok(amount) } else { Err(OUT_OF_RANGE.to_owned()) }
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("does not begin with a number".to_owned());
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(if unit.is_empty() { "has no unit" } else { "has no known unit" }.to_owned());
    };
    let amount = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor));
    amount.ok_or_else(|| OUT_OF_RANGE.to_owned())
}

/// The choices must not be empty.
pub(super) fn one_of<T: Copy + 'static, const N: usize>(choices: [(&'static str, T); N]) -> Kind<T> {
    let names = choices.map(|(name, _)| format!("\"{name}\""));
    Kind::string(
        format!("one of {}", names.join(", ")),
        names.map(|name| format!("`{name}`")).join(", "),
        choices[0].1,
        move |text| {
            let choice = choices.iter().find(|(name, _)| *name == text);
            choice.map(|(_, value)| *value).ok_or_else(|| "is not one of them".to_owned())
        },
    )
}

/// Text with a grammar of its own: `fits` answers what is wrong with it.
pub(super) fn text(
    expects: &'static str,
    summary: &'static str,
    fits: impl Fn(&str) -> Result<(), String> + 'static,
) -> Kind<String> {
    Kind::string(expects, summary, String::new(), move |text| {
        fits(text)?;
        Ok(text.to_owned())
    })
}

/// `most` characters or fewer, each of them `allowed`.
pub(super) fn made_of(text: &str, most: usize, allowed: impl Fn(char) -> bool) -> Result<(), String> {
    match text.chars().find(|&c| !allowed(c)) {
        Some(found) => Err(format!("has {found:?} in it")),
        None if text.is_empty() => Err("is empty".to_owned()),
        None if text.len() > most => Err(format!("is longer than {most} characters")),
        None => Ok(()),
    }
}

pub(super) fn path() -> Kind<PathBuf> {
    Kind {
        parse: Box::new(|text, directory| match text {
            "" => Err("is empty".to_owned()),
            text if text.contains("-----BEGIN") => Err("is the content of a file".to_owned()),
            text if text.chars().any(char::is_control) => Err("has a control character in it".to_owned()),
            text => Ok(directory.join(text)),
        }),
        ..Kind::string("a path", "path", PathBuf::new(), |_| Ok(PathBuf::new()))
    }
}

pub(super) fn file(file: FileUse) -> Kind<PathBuf> {
    Kind { file: Some(file), ..path() }
}

const ADDRESS: &str = "\"IP:PORT\", \"[IPv6]:PORT\", or \":PORT\" for all interfaces";

pub(super) fn address() -> Kind<SocketAddr> {
    Kind::string(ADDRESS, "address", UNSET, parse_address)
}

pub(super) fn address_or_off() -> Kind<Option<SocketAddr>> {
    Kind::string(format!("{ADDRESS}, or \"off\""), "address or `\"off\"`", None, |text| match text {
        "off" => Ok(None),
        text => parse_address(text).map(Some),
    })
}

const UNSET: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let (host, port) = text.rsplit_once(':').ok_or("has no port")?;
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port = port.parse().ok().filter(|_| digits).ok_or("has no port between 0 and 65535")?;
    if host.is_empty() {
        return Ok(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    }
    text.parse().map_err(|_| format!("has no IP address before its port, but \"{host}\""))
}
