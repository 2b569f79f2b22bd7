//! Resource names, as the API takes and as it gives them.

use tonic::Code;

use super::refusal::Refusal;

/// The one project there is.
pub const PROJECT: &str = "keyferry-test";
/// Google takes its id or its number and answers with the number.
pub const PROJECT_NUMBER: &str = "481516234200";

/// Where secrets are kept apart: the global manager, or one region's.
pub(super) type Location = Option<String>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SecretKey {
    pub(super) location: Location,
    pub(super) id: String,
}

pub(super) fn parent(name: &str) -> Result<Location, Refusal> {
    let parts: Vec<&str> = name.split('/').collect();
    match parts[..] {
        ["projects", project] => own(project, name).map(|()| None),
        ["projects", project, "locations", location] if is_id(location) => {
            own(project, name).map(|()| Some(location.to_owned()))
        }
        _ => Err(invalid(name)),
    }
}

pub(super) fn secret(name: &str) -> Result<SecretKey, Refusal> {
    let (before, id) = name.rsplit_once("/secrets/").ok_or_else(|| invalid(name))?;
    if is_id(id) { Ok(SecretKey { location: parent(before)?, id: id.to_owned() }) } else { Err(invalid(name)) }
}

/// The version's id is a number or an alias.
pub(super) fn version(name: &str) -> Result<(SecretKey, &str), Refusal> {
    let (before, version) = name.rsplit_once("/versions/").ok_or_else(|| invalid(name))?;
    if is_id(version) { Ok((secret(before)?, version)) } else { Err(invalid(name)) }
}

pub(super) fn is_id(id: &str) -> bool {
    (1..=255).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

pub(super) fn told(key: &SecretKey) -> String {
    match &key.location {
        None => format!("projects/{PROJECT_NUMBER}/secrets/{}", key.id),
        Some(location) => format!("projects/{PROJECT_NUMBER}/locations/{location}/secrets/{}", key.id),
    }
}

fn own(project: &str, name: &str) -> Result<(), Refusal> {
    if project == PROJECT || project == PROJECT_NUMBER {
        return Ok(());
    }
    Err(Refusal::new(Code::PermissionDenied, format!("Permission denied on resource project {name}.")))
}

fn invalid(name: &str) -> Refusal {
    Refusal::new(Code::InvalidArgument, format!("The provided name [{name}] does not match the expected format."))
}
