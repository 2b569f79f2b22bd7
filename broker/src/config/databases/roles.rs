//! `[databases.NAME.roles.NAME]`: what every role has, and what belongs to the credential that its tokens are.

use std::collections::BTreeMap;
use std::time::Duration;

use super::server::identifier;
use crate::config::credentials::{Names, credential_name, service_account};
use crate::config::kind::{Kind, boolean, count, duration, made_of, one_of, text};
use crate::config::section::Section;
use crate::config::stores::check_credential;
use crate::databases::cloud::{AzureRole, GoogleRole};
use crate::databases::{MappedRole, RoleSettings};
use crate::names::DatabaseName;
use crate::providers::credential::Cloud;

const ABOUT: &str = "A role that tokens are minted for, called `databases/NAME/roles/NAME`.";

/// What proves a token's user. Each has a name that no kind of database shares with another meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Credential {
    /// A user made for the lease, with a password.
    Password,
    Certificate,
    /// A token that the broker signs.
    Jwt,
    /// A token of a Google service account.
    GoogleToken,
    /// A certificate that holds one.
    GoogleCertificate,
    /// A token of an identity in Entra.
    EntraToken,
}

impl Credential {
    const ALL: [(&str, Self); 6] = [
        ("password", Self::Password),
        ("certificate", Self::Certificate),
        ("jwt", Self::Jwt),
        ("google-token", Self::GoogleToken),
        ("google-certificate", Self::GoogleCertificate),
        ("entra-token", Self::EntraToken),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, credential)| *credential == self).map_or("", |(name, _)| name)
    }
}

/// What the roles of one kind of database may be.
pub(super) struct Offer {
    /// The default first.
    pub(super) credentials: &'static [Credential],
    /// What is wrong with a user that tokens are to log in as.
    pub(super) check_user: fn(&str) -> Result<(), String>,
    /// Whether a session chooses its role.
    pub(super) has_creator_roles: bool,
}

pub(super) enum Role {
    Password(RoleSettings),
    Certificate(MappedRole),
    Jwt(MappedRole),
    GoogleToken(GoogleRole),
    GoogleCertificate(GoogleRole),
    EntraToken(AzureRole),
}

/// By id.
pub(super) type Roles = BTreeMap<String, Role>;

/// Without a readable kind of database, little can be said of its roles.
pub(super) fn read(s: &mut Section<'_, '_>, offer: Option<&'static Offer>, credentials: &Names) -> Roles {
    s.named("databases.NAME.roles", ABOUT, role_id, |s| read_one(s, offer, credentials))
}

/// Those that `choose` takes.
pub(super) fn of<T>(roles: &Roles, choose: impl Fn(&Role) -> Option<&T>) -> BTreeMap<String, T>
where
    T: Clone,
{
    roles.iter().filter_map(|(id, role)| Some((id.clone(), choose(role)?.clone()))).collect()
}

fn read_one(s: &mut Section<'_, '_>, offer: Option<&'static Offer>, credentials: &Names) -> Role {
    let credential = credential(s, offer);
    let is = |wanted| credential.map(|credential| credential == wanted);
    let mut mapped = MappedRole {
        description: s.with_default("description", free_text(), "", "For people: what the role is for."),
        user: String::new(),
        default_ttl: s.with_default("default_ttl", duration("1s", "24h"), "15m", "A token's life when none is asked."),
        max_ttl: s.with_default("max_ttl", duration("1s", "24h"), "1h", "The longest that one mint or renewal grants."),
    };
    if s.are_sound(&["default_ttl", "max_ttl"]) && mapped.default_ttl > mapped.max_ttl {
        s.refuse("default_ttl", "is longer than max_ttl; shorten it, or raise max_ttl");
    }
    let password = variant(s, Credential::Password, is, |s| leased(s, &mapped));
    let certificate = variant(s, Credential::Certificate, is, |s| user(s, offer));
    let jwt = variant(s, Credential::Jwt, is, |s| user(s, offer));
    let google_token = variant(s, Credential::GoogleToken, is, |s| google_token(s, &mapped));
    let google_certificate = variant(s, Credential::GoogleCertificate, is, |s| google(s, &mapped));
    let entra_token = variant(s, Credential::EntraToken, is, |s| entra(s, &mapped));
    match credential {
        Some(Credential::GoogleToken) => {
            check_google(s, &google_token, offer);
            Role::GoogleToken(google_token)
        }
        Some(Credential::GoogleCertificate) => {
            check_google(s, &google_certificate, offer);
            Role::GoogleCertificate(google_certificate)
        }
        Some(Credential::EntraToken) => {
            check_entra(s, &entra_token, credentials);
            Role::EntraToken(entra_token)
        }
        Some(Credential::Password) | None => Role::Password(password),
        Some(Credential::Certificate) => {
            mapped.user = certificate;
            Role::Certificate(mapped)
        }
        Some(Credential::Jwt) => {
            mapped.user = jwt;
            Role::Jwt(mapped)
        }
    }
}

fn variant<T>(
    s: &mut Section<'_, '_>,
    credential: Credential,
    is: impl Fn(Credential) -> Option<bool>,
    read: impl FnOnce(&mut Section<'_, '_>) -> T,
) -> T {
    s.variant_by("credential", credential.name(), is(credential), |s| read(s))
}

fn credential(s: &mut Section<'_, '_>, offer: Option<&'static Offer>) -> Option<Credential> {
    let chosen = s.optional(
        "credential",
        &one_of(Credential::ALL),
        "What a token is. `password`: a user made for each token, which may do what the groups may (kind `postgres`, and \
         what its roles are by default). `certificate`: a client certificate of a user that is there already (kinds \
         `postgres` and `cockroach`). `jwt`: a token of `[issuer]` for such a user (kind `cockroach`, and its default). \
         `google-token`: an OAuth token of a Google service account (kinds `cloud-sql` and `spanner`, and their \
         default). `google-certificate`: an ephemeral certificate that holds one (kind `cloud-sql`). `entra-token`: a \
         token of an identity in Entra (Azure's kinds, and their default).",
    );
    let offered = offer?.credentials;
    match chosen {
        Some(chosen) if offered.contains(&chosen) => Some(chosen),
        Some(_) => {
            let names: Vec<_> = offered.iter().map(|credential| format!("\"{}\"", credential.name())).collect();
            s.refuse("credential", &format!("is not for this kind of database; write {}", names.join(" or ")));
            None
        }
        None => offered.first().copied().filter(|_| s.are_sound(&["credential"])),
    }
}

fn leased(s: &mut Section<'_, '_>, every: &MappedRole) -> RoleSettings {
    let role = RoleSettings {
        description: every.description.clone(),
        groups: s.list("groups", &identifier(), &[], "NOLOGIN roles that a token's user becomes a member of."),
        default_ttl: every.default_ttl,
        max_ttl: every.max_ttl,
        max_lifetime: s.with_default(
            "max_lifetime",
            duration("1s", "168h"),
            "24h",
            "The longest life with all renewals, from the mint on.",
        ),
        connection_limit: s.with_default("connection_limit", count(1..=10_000), "10", "Sessions that a user may have."),
        search_path: s.list_or_empty("search_path", &identifier(), "Schemas that a user's sessions search."),
        heir: s.optional("heir", &identifier(), "Who owns what a removed user owned; the first group without it."),
    };
    if !s.is_foreign() && s.are_sound(&["max_ttl", "max_lifetime"]) && role.max_ttl > role.max_lifetime {
        s.refuse("max_ttl", "is longer than max_lifetime; shorten it, or raise max_lifetime");
    }
    role
}

/// The longest that Google's IAM grants without an organisation's exception.
const LONGEST_GOOGLE_TOKEN: Duration = Duration::from_secs(3600);

fn google(s: &mut Section<'_, '_>, every: &MappedRole) -> GoogleRole {
    GoogleRole {
        description: every.description.clone(),
        service_account: s.required(
            "service_account",
            service_account(),
            "The service account that a token is of. The broker's credential needs \
             `roles/iam.serviceAccountTokenCreator` on it, and nothing else.",
        ),
        creator_role: None,
        default_ttl: every.default_ttl,
        max_ttl: every.max_ttl,
    }
}

fn google_token(s: &mut Section<'_, '_>, every: &MappedRole) -> GoogleRole {
    let role = google(s, every);
    let creator_role = s.optional(
        "creator_role",
        &identifier(),
        "For kind `spanner`: the database role that sessions are to be created in. IAM says whether they may.",
    );
    GoogleRole { creator_role, ..role }
}

fn entra(s: &mut Section<'_, '_>, every: &MappedRole) -> AzureRole {
    AzureRole {
        description: every.description.clone(),
        identity: s.required(
            "identity",
            credential_name(),
            "The entry of `[credentials]`, of an Azure kind, that a token is of. Give each role one of its own: whoever \
             has the token is that identity in the database.",
        ),
        user: s.required("user", entra_user(), "The name that this identity has as a user of the database."),
        longest_life: s.with_default(
            "longest_life",
            duration("5m", "25h"),
            "2h",
            "Entra alone decides how long a token lives: an application's 60 to 90 minutes, a managed identity's up to \
             a day. One that lives longer than this is not handed out.",
        ),
        may_outlive_caller: s.with_default(
            "may_outlive_caller",
            boolean(),
            "false",
            "Whether a token is handed out that ends after the caller's own credential.",
        ),
    }
}

fn check_google(s: &mut Section<'_, '_>, role: &GoogleRole, offer: Option<&Offer>) {
    if s.are_sound(&["max_ttl"]) && role.max_ttl > LONGEST_GOOGLE_TOKEN {
        s.refuse("max_ttl", "is longer than the hour that Google grants; write \"1h\" or less");
    }
    if role.creator_role.is_some() && offer.is_some_and(|offer| !offer.has_creator_roles) {
        s.refuse("creator_role", "is for databases of kind \"spanner\" alone; leave it out, and grant to the user");
    }
}

fn check_entra(s: &mut Section<'_, '_>, role: &AzureRole, credentials: &Names) {
    for key in ["default_ttl", "max_ttl"] {
        if s.is_given(key) {
            s.refuse(key, "has no effect on Entra's tokens, whose life nobody can shorten; write longest_life");
        }
    }
    if !role.identity.is_empty() {
        check_credential(s, "identity", &role.identity, Cloud::Azure, credentials);
    }
}

/// Of a group, an application or a person: Entra's names have few limits.
fn entra_user() -> Kind<String> {
    text("a name of 1 to 128 characters", "name", |name| made_of(name, 128, |c| !c.is_control()))
}

fn user(s: &mut Section<'_, '_>, offer: Option<&'static Offer>) -> String {
    let user = s.required("user", identifier(), "The user that a token logs in as; made and granted by you.");
    if let Some(Err(fault)) = offer.map(|offer| (offer.check_user)(&user)).filter(|_| !user.is_empty()) {
        s.refuse("user", &fault);
    }
    user
}

fn role_id(id: &str) -> Result<String, String> {
    let any = DatabaseName::from_id("any").map_err(|error| error.to_string())?;
    any.role(id).map(|name| name.id().to_owned()).map_err(|error| error.to_string())
}

fn free_text() -> Kind<String> {
    text("text of at most 256 characters", "text", |text| {
        if text.is_empty() { Ok(()) } else { made_of(text, 256, |c| !c.is_control()) }
    })
}
