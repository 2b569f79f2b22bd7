//! The addresses of others, as far as a configuration can judge them.

use std::net::Ipv6Addr;

use super::kind::{Kind, text};
use crate::providers::credential::stays_on_host;

const LONGEST: usize = 1024;

/// Kept as it is written: an issuer is compared byte by byte.
pub(super) fn https_url() -> Kind<String> {
    text("a URL that begins with https:// and has no user, query or fragment", "https URL", |url| {
        let rest = url.strip_prefix("https://").ok_or("does not begin with https://")?;
        check_rest(url, rest)
    })
}

/// A collector beside the broker is often spoken to in plain text.
pub(super) fn collector_url() -> Kind<String> {
    text("a URL that begins with http:// or https://", "URL", |url| {
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        check_rest(url, rest.ok_or("does not begin with http:// or https://")?)
    })
}

/// Of a cloud's API. Tokens go there, so plain text stays on this machine.
pub(super) fn service_url() -> Kind<String> {
    text("a URL that begins with https://, or with http:// and a loopback address", "URL", |url| {
        let rest = url.strip_prefix("https://").or_else(|| {
            let rest = url.strip_prefix("http://")?;
            ["127.0.0.1", "[::1]", "localhost"].iter().any(|host| is_host_of(host, rest)).then_some(rest)
        });
        check_rest(url, rest.ok_or("begins neither with https:// nor with http:// and a loopback address")?)
    })
}

/// As a browser writes the origin of its page, since the two are compared byte by byte.
pub(super) fn web_origin() -> Kind<String> {
    text("https://HOST or https://HOST:PORT, in lower case and without a path", "origin", |origin| {
        let (rest, usual) = match origin.strip_prefix("https://") {
            Some(rest) => (rest, ":443"),
            None => (origin.strip_prefix("http://").ok_or("does not begin with https://")?, ":80"),
        };
        check_rest(origin, rest)?;
        if rest.contains('/') || origin.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err("is not as a browser writes it".to_owned());
        }
        if rest.ends_with(usual) { Err(format!("has {usual}, which browsers leave out")) } else { Ok(()) }
    })
}

pub(super) fn metadata_url() -> Kind<String> {
    text("http:// and the address of a metadata service on this host", "URL", |url| {
        let rest = url.strip_prefix("http://").filter(|rest| stays_on_host(host_in(rest)));
        check_rest(url, rest.ok_or("is not http:// with an address that stays on this host")?)
    })
}

fn host_in(rest: &str) -> &str {
    let authority = rest.split('/').next().unwrap_or_default();
    let port = authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    port.map_or(authority, |(host, _)| host)
}

fn is_host_of(host: &str, rest: &str) -> bool {
    rest.strip_prefix(host).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
}

/// The suffixes are those of Azure's public, Chinese and US government clouds.
const VAULT_SUFFIXES: [&str; 3] = [".vault.azure.net", ".vault.azure.cn", ".vault.usgovcloudapi.net"];

pub(super) fn vault_url() -> Kind<String> {
    text("https://NAME.vault.azure.net, or a sovereign cloud's vault domain", "https URL", |url| {
        let host = url.strip_prefix("https://").ok_or("does not begin with https://")?;
        let host = host.strip_suffix('/').unwrap_or(host);
        let name = VAULT_SUFFIXES.iter().find_map(|suffix| host.strip_suffix(suffix));
        let name = name.ok_or("is not the URL of a key vault")?;
        let fits = (3..=24).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(()) } else { Err("has a vault name that Azure would not accept".to_owned()) }
    })
}

fn check_rest(url: &str, rest: &str) -> Result<(), String> {
    if url.len() > LONGEST {
        return Err(format!("is longer than {LONGEST} characters"));
    }
    if let Some(found) = url.chars().find(|c| !c.is_ascii_graphic() || "\"<>\\^`{|}?#@".contains(*c)) {
        return Err(format!("has {found:?} in it"));
    }
    let authority = rest.split('/').next().unwrap_or_default();
    if is_authority(authority) { Ok(()) } else { Err("has no valid host after its scheme".to_owned()) }
}

fn is_authority(authority: &str) -> bool {
    let (is_valid, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host.parse::<Ipv6Addr>().is_ok(), port),
        None => {
            let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            (is_host(host), port)
        }
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
    is_valid && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

fn is_host(host: &str) -> bool {
    host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}
