//! Kind `cockroach`: tokens of our issuer, or certificates, of users that are there.

use super::roles::{self, Credential, Offer, Role, Roles};
use super::server::{certificates, server};
use crate::config::kind::{Kind, made_of, text};
use crate::config::section::Section;
use crate::databases::{CockroachDatabase, JwtSettings};

pub(super) const OFFER: Offer =
    Offer { credentials: &[Credential::Jwt, Credential::Certificate], check_user, has_creator_roles: false };

pub(super) fn read(s: &mut Section<'_, '_>, roles: &Roles) -> CockroachDatabase {
    let server = server(s, "26257");
    let tokens = roles::of(roles, |role| if let Role::Jwt(role) = role { Some(role) } else { None });
    let certified = roles::of(roles, |role| if let Role::Certificate(role) = role { Some(role) } else { None });
    let audience = s.optional(
        "audience",
        &audience(),
        "What roles with `credential = \"jwt\"` need: who their tokens are for, as the cluster's \
         `server.jwt_authentication.audience` has it. No two clusters should share one.",
    );
    if audience.is_none() && !tokens.is_empty() && s.are_sound(&["audience"]) {
        s.refuse_missing("audience", "is missing; write what server.jwt_authentication.audience is set to");
    }
    let certificates = certificates(s, &server, certified);
    let tokens =
        audience.filter(|_| !tokens.is_empty()).map(|audience| JwtSettings { server, audience, roles: tokens });
    CockroachDatabase { tokens, certificates }
}

fn audience() -> Kind<String> {
    text("a text of 1 to 512 visible characters", "text", |text| made_of(text, 512, |c| c.is_ascii_graphic()))
}

/// CockroachDB folds what it is given and refuses the rest; a name that is not as it would be after that is no user.
fn check_user(user: &str) -> Result<(), String> {
    const RESERVED: [&str; 5] = ["root", "node", "admin", "public", "none"];
    if RESERVED.contains(&user) || user.starts_with("pg_") || user.starts_with("crdb_internal") {
        return Err("is a name that CockroachDB keeps for itself or its administrators; choose another".to_owned());
    }
    let is_first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let is_rest = |c: char| is_first(c) || c == '-' || c == '.';
    if user.starts_with(is_first) && user.chars().all(is_rest) {
        return Ok(());
    }
    Err("is no user's name in CockroachDB; write lower-case letters, digits and _, then also - and .".to_owned())
}
