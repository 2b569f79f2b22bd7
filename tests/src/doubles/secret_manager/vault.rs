//! What the double keeps, and the rules by which Secret Manager keeps it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use keyferry_broker::clock::{Clock as _, SystemClock};
use prost_types::Timestamp;
use tonic::Code;

use super::messages::{
    AccessSecretVersionResponse, AddSecretVersionRequest, CreateSecretRequest, ListRequest, ListSecretVersionsResponse,
    ListSecretsResponse, NamedRequest, Secret, SecretPayload, SecretVersion, State, UpdateSecretRequest,
};
use super::name::{self, SecretKey};
use super::refusal::Refusal;

const MAX_PAYLOAD: usize = 64 << 10;
const MAX_PAGE: usize = 25_000;

/// How `latest` follows the versions that are added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lag {
    /// At once.
    #[default]
    None,
    /// It names the version before for so many reads.
    Reads(usize),
    /// It names the version before until the lag is lifted.
    Lasting,
}

#[derive(Debug, Default)]
pub(super) struct Vault {
    secrets: BTreeMap<SecretKey, Kept>,
    lag: Lag,
    /// Behind every etag: each change makes another.
    changes: u64,
}

#[derive(Debug)]
struct Kept {
    /// Which of all changes made it, as times may be equal.
    created: u64,
    secret: Secret,
    /// Version n at n - 1.
    versions: Vec<(SecretVersion, Vec<u8>)>,
    /// The number that `latest` stands for, 0 for none.
    latest: usize,
}

type Answered<T> = Result<T, Refusal>;

impl Vault {
    pub(super) fn set_lag(&mut self, lag: Lag) {
        self.lag = lag;
    }

    pub(super) fn create_secret(&mut self, request: &CreateSecretRequest) -> Answered<Secret> {
        let location = name::parent(&request.parent)?;
        if !name::is_id(&request.secret_id) {
            return Err(invalid("The secret ID does not match the expected format [[a-zA-Z_0-9]+]."));
        }
        let mut secret = request.secret.clone().ok_or_else(|| invalid("A secret is required."))?;
        match (&location, &secret.replication) {
            (None, None) => return Err(invalid("Secret.replication is required.")),
            (Some(_), Some(_)) => return Err(invalid("A regional secret has no replication policy.")),
            (None, Some(_)) | (Some(_), None) => {}
        }
        let key = SecretKey { location, id: request.secret_id.clone() };
        secret.name = name::told(&key);
        if self.secrets.contains_key(&key) {
            return Err(Refusal::new(Code::AlreadyExists, format!("Secret [{}] already exists.", secret.name)));
        }
        secret.create_time = Some(now());
        secret.etag = self.etag();
        let created = self.changes;
        self.secrets.insert(key, Kept { created, secret: secret.clone(), versions: Vec::new(), latest: 0 });
        Ok(secret)
    }

    pub(super) fn get_secret(&mut self, request: &NamedRequest) -> Answered<Secret> {
        Ok(self.kept(&name::secret(&request.name)?)?.secret.clone())
    }

    pub(super) fn update_secret(&mut self, request: &UpdateSecretRequest) -> Answered<Secret> {
        let given = request.secret.as_ref().ok_or_else(|| invalid("A secret is required."))?;
        if request.update_mask.as_ref().is_none_or(|mask| mask.paths != ["labels"]) {
            return Err(invalid("The update mask names a field that cannot be updated."));
        }
        let etag = self.etag();
        let kept = self.kept(&name::secret(&given.name)?)?;
        check_etag(&given.etag, &kept.secret.etag)?;
        kept.secret.labels.clone_from(&given.labels);
        kept.secret.etag = etag;
        Ok(kept.secret.clone())
    }

    pub(super) fn delete_secret(&mut self, request: &NamedRequest) -> Answered<()> {
        let key = name::secret(&request.name)?;
        check_etag(&request.etag, &self.kept(&key)?.secret.etag)?;
        self.secrets.remove(&key);
        Ok(())
    }

    /// The newest first.
    pub(super) fn list_secrets(&mut self, request: &ListRequest) -> Answered<ListSecretsResponse> {
        let location = name::parent(&request.parent)?;
        let here = self.secrets.iter().filter(|(key, _)| key.location == location);
        let mut all: Vec<&Kept> = here.map(|(_, kept)| kept).collect();
        all.sort_by_key(|kept| Reverse(kept.created));
        let (range, next_page_token) = page(request, all.len())?;
        let total_size = i32::try_from(all.len()).unwrap();
        Ok(ListSecretsResponse {
            secrets: all[range].iter().map(|kept| kept.secret.clone()).collect(),
            next_page_token,
            total_size,
        })
    }

    pub(super) fn add_version(&mut self, request: &AddSecretVersionRequest) -> Answered<SecretVersion> {
        let payload = request.payload.as_ref().ok_or_else(|| invalid("A payload is required."))?;
        let (etag, lag) = (self.etag(), self.lag);
        let kept = self.kept(&name::secret(&request.parent)?)?;
        if payload.data.is_empty() {
            return Err(invalid("Secret Payload cannot be empty."));
        }
        if payload.data.len() > MAX_PAYLOAD {
            return Err(invalid("The size of the secret payload exceeds 65536 bytes."));
        }
        if payload.data_crc32c.is_some_and(|given| given != checksum(&payload.data)) {
            return Err(invalid("The provided CRC32C does not match the payload."));
        }
        let number = kept.versions.len() + 1;
        let version = SecretVersion {
            name: format!("{}/versions/{number}", kept.secret.name),
            create_time: Some(now()),
            destroy_time: None,
            state: State::Enabled.into(),
            etag,
            client_specified_payload_checksum: payload.data_crc32c.is_some(),
        };
        kept.versions.push((version.clone(), payload.data.clone()));
        if lag == Lag::None || number == 1 {
            kept.latest = number;
        }
        Ok(version)
    }

    pub(super) fn get_version(&mut self, request: &NamedRequest) -> Answered<SecretVersion> {
        Ok(self.found(&request.name)?.0.clone())
    }

    pub(super) fn access_version(&mut self, request: &NamedRequest) -> Answered<AccessSecretVersionResponse> {
        let (version, data) = self.found(&request.name)?;
        if version.state() != State::Enabled {
            return Err(wrong_state(version));
        }
        let payload = SecretPayload { data: data.clone(), data_crc32c: Some(checksum(data)) };
        Ok(AccessSecretVersionResponse { name: version.name.clone(), payload: Some(payload) })
    }

    /// The newest first.
    pub(super) fn list_versions(&mut self, request: &ListRequest) -> Answered<ListSecretVersionsResponse> {
        let kept = self.kept(&name::secret(&request.parent)?)?;
        let all: Vec<SecretVersion> = kept.versions.iter().rev().map(|(version, _)| version.clone()).collect();
        let (range, next_page_token) = page(request, all.len())?;
        let total_size = i32::try_from(all.len()).unwrap();
        Ok(ListSecretVersionsResponse { versions: all[range].to_vec(), next_page_token, total_size })
    }

    pub(super) fn enable_version(&mut self, request: &NamedRequest) -> Answered<SecretVersion> {
        self.change(request, State::Enabled)
    }

    pub(super) fn disable_version(&mut self, request: &NamedRequest) -> Answered<SecretVersion> {
        self.change(request, State::Disabled)
    }

    pub(super) fn destroy_version(&mut self, request: &NamedRequest) -> Answered<SecretVersion> {
        self.change(request, State::Destroyed)
    }

    fn change(&mut self, request: &NamedRequest, state: State) -> Answered<SecretVersion> {
        if name::version(&request.name)?.1.parse::<usize>().is_err() {
            return Err(invalid("An alias cannot be used to change a version."));
        }
        let etag = self.etag();
        let (version, data) = self.found(&request.name)?;
        check_etag(&request.etag, &version.etag)?;
        if version.state() == State::Destroyed {
            return Err(wrong_state(version));
        }
        if version.state() != state {
            version.set_state(state);
            version.etag = etag;
        }
        if state == State::Destroyed {
            version.destroy_time = Some(now());
            data.clear();
        }
        Ok(version.clone())
    }

    fn found(&mut self, version_name: &str) -> Answered<&mut (SecretVersion, Vec<u8>)> {
        let (key, id) = name::version(version_name)?;
        let lag = self.lag;
        let kept = self.kept(&key)?;
        let mut lagged = false;
        let number = if id == "latest" {
            lagged = lag != Lag::None && lag != Lag::Reads(0) && kept.latest < kept.versions.len();
            if !lagged {
                kept.latest = kept.versions.len();
            }
            kept.latest
        } else {
            id.parse().unwrap_or(0)
        };
        if let (true, Lag::Reads(left)) = (lagged, lag) {
            self.lag = Lag::Reads(left - 1);
        }
        let absent = || Refusal::new(Code::NotFound, format!("Secret Version [{version_name}] not found."));
        let place = number.checked_sub(1).ok_or_else(absent)?;
        self.kept(&key)?.versions.get_mut(place).ok_or_else(absent)
    }

    fn kept(&mut self, key: &SecretKey) -> Answered<&mut Kept> {
        let absent = || Refusal::new(Code::NotFound, format!("Secret [{}] not found.", name::told(key)));
        self.secrets.get_mut(key).ok_or_else(absent)
    }

    fn etag(&mut self) -> String {
        self.changes += 1;
        format!("\"{:012x}\"", self.changes)
    }
}

pub(super) fn checksum(data: &[u8]) -> i64 {
    crc32c::crc32c(data).into()
}

/// The token is the place of the next item.
fn page(request: &ListRequest, all: usize) -> Answered<(std::ops::Range<usize>, String)> {
    let size = match usize::try_from(request.page_size) {
        Err(_) => return Err(invalid("The page size is negative.")),
        Ok(0) => MAX_PAGE,
        Ok(size) => size.min(MAX_PAGE),
    };
    let start = match request.page_token.strip_prefix("next-") {
        None if request.page_token.is_empty() => 0,
        Some(place) => place.parse().ok().filter(|place| *place <= all).ok_or_else(bad_token)?,
        None => return Err(bad_token()),
    };
    let end = all.min(start + size);
    Ok((start..end, if end < all { format!("next-{end}") } else { String::new() }))
}

fn bad_token() -> Refusal {
    invalid("The page token is invalid.")
}

fn check_etag(given: &str, kept: &str) -> Answered<()> {
    if given.is_empty() || given == kept {
        return Ok(());
    }
    Err(Refusal::new(Code::Aborted, "The etag does not match."))
}

fn wrong_state(version: &SecretVersion) -> Refusal {
    let state = version.state().name();
    Refusal::new(Code::FailedPrecondition, format!("Secret Version [{}] is in {state} state.", version.name))
}

fn invalid(message: &str) -> Refusal {
    Refusal::new(Code::InvalidArgument, message)
}

fn now() -> Timestamp {
    let micros = SystemClock.now().as_micros();
    Timestamp {
        seconds: i64::try_from(micros / 1_000_000).unwrap(),
        nanos: i32::try_from(micros % 1_000_000).unwrap() * 1_000,
    }
}
