//! The API's methods, by their names and what they need.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    ListSecrets,
    CreateSecret,
    GetSecret,
    UpdateSecret,
    DeleteSecret,
    AddSecretVersion,
    GetSecretVersion,
    AccessSecretVersion,
    ListSecretVersions,
    EnableSecretVersion,
    DisableSecretVersion,
    DestroySecretVersion,
}

impl Method {
    pub const ALL: [Self; 12] = [
        Self::ListSecrets,
        Self::CreateSecret,
        Self::GetSecret,
        Self::UpdateSecret,
        Self::DeleteSecret,
        Self::AddSecretVersion,
        Self::GetSecretVersion,
        Self::AccessSecretVersion,
        Self::ListSecretVersions,
        Self::EnableSecretVersion,
        Self::DisableSecretVersion,
        Self::DestroySecretVersion,
    ];

    pub(super) fn permission(self) -> &'static str {
        match self {
            Self::ListSecrets => "secretmanager.secrets.list",
            Self::CreateSecret => "secretmanager.secrets.create",
            Self::GetSecret => "secretmanager.secrets.get",
            Self::UpdateSecret => "secretmanager.secrets.update",
            Self::DeleteSecret => "secretmanager.secrets.delete",
            Self::AddSecretVersion => "secretmanager.versions.add",
            Self::GetSecretVersion => "secretmanager.versions.get",
            Self::AccessSecretVersion => "secretmanager.versions.access",
            Self::ListSecretVersions => "secretmanager.versions.list",
            Self::EnableSecretVersion => "secretmanager.versions.enable",
            Self::DisableSecretVersion => "secretmanager.versions.disable",
            Self::DestroySecretVersion => "secretmanager.versions.destroy",
        }
    }
}
