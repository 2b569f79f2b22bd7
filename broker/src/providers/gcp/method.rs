//! The API's methods: what each counts against, and what the broker must be granted for it.

use crate::providers::guard::Operation;

#[derive(Clone, Copy, Debug)]
pub(super) struct Method {
    pub operation: Operation,
    pub permission: &'static str,
    /// The narrowest predefined role with the permission.
    pub role: &'static str,
    pub about: About,
}

/// What a request names, and so what Google's `NOT_FOUND` and `FAILED_PRECONDITION` are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    Store,
    Secret,
    Version,
}

const VIEWER: &str = "roles/secretmanager.viewer";
const MANAGER: &str = "roles/secretmanager.secretVersionManager";

pub(super) const ACCESS: Method = Method {
    operation: Operation::Access,
    permission: "secretmanager.versions.access",
    role: "roles/secretmanager.secretAccessor",
    about: About::Version,
};

pub(super) const GET_VERSION: Method = Method {
    operation: Operation::Metadata,
    permission: "secretmanager.versions.get",
    role: VIEWER,
    about: About::Version,
};

pub(super) const LIST_VERSIONS: Method = Method {
    operation: Operation::Metadata,
    permission: "secretmanager.versions.list",
    role: VIEWER,
    about: About::Secret,
};

pub(super) const GET_SECRET: Method = Method {
    operation: Operation::Metadata,
    permission: "secretmanager.secrets.get",
    role: VIEWER,
    about: About::Secret,
};

pub(super) const LIST_SECRETS: Method = Method {
    operation: Operation::Metadata,
    permission: "secretmanager.secrets.list",
    role: VIEWER,
    about: About::Store,
};

pub(super) const ADD_VERSION: Method = Method {
    operation: Operation::Write,
    permission: "secretmanager.versions.add",
    role: "roles/secretmanager.secretVersionAdder",
    about: About::Secret,
};

pub(super) const ENABLE: Method = Method {
    operation: Operation::Write,
    permission: "secretmanager.versions.enable",
    role: MANAGER,
    about: About::Version,
};

pub(super) const DISABLE: Method = Method {
    operation: Operation::Write,
    permission: "secretmanager.versions.disable",
    role: MANAGER,
    about: About::Version,
};
