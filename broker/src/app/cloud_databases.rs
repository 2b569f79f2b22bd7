//! The databases that believe their cloud's tokens, each role with the identity that it is.

use std::path::Path;
use std::sync::Arc;

use super::StartError;
use super::databases::Minters;
use super::stores::Credentials;
use crate::clock::SharedClock;
use crate::databases::CaError;
use crate::databases::cloud::{
    AzureMinter, AzureSettings, CloudSql, CloudSqlMinter, CloudSqlSettings, SpannerMinter, SpannerSettings,
};
use crate::names::{DatabaseName, RoleName};
use crate::providers::credential::{Broken, Credential, ServiceAccount};
use crate::providers::guard::{Guard, GuardSettings};

/// What the minters of one database are made with.
pub(super) struct Cloud<'a> {
    pub(super) name: &'a DatabaseName,
    pub(super) credentials: &'a Credentials,
    pub(super) clock: &'a SharedClock,
}

impl Cloud<'_> {
    pub(super) fn cloud_sql(&self, settings: CloudSqlSettings) -> Result<Minters, StartError> {
        let settings = Arc::new(settings);
        let database =
            CloudSql { settings: Arc::clone(&settings), guard: self.guard(&settings.guard), clock: self.clock.clone() };
        let mut minters = Minters::new();
        for (id, (proof, role)) in settings.roles.clone() {
            let account = self.account(&settings.credential, &role.service_account, &settings.iam_url)?;
            let name = self.role(&id)?;
            let minter = CloudSqlMinter::new(name.clone(), proof, role, account, database.clone());
            minters.insert(name, Arc::new(minter.map_err(|broken| self.unusable(broken))?));
        }
        Ok(minters)
    }

    pub(super) fn spanner(&self, settings: &SpannerSettings) -> Result<Minters, StartError> {
        let guard = self.guard(&settings.guard);
        let mut minters = Minters::new();
        for (id, role) in settings.roles.clone() {
            let account = self.account(&settings.credential, &role.service_account, &settings.iam_url)?;
            let name = self.role(&id)?;
            let minter = SpannerMinter::new(name.clone(), settings, role, account, Arc::clone(&guard));
            minters.insert(name, Arc::new(minter));
        }
        Ok(minters)
    }

    pub(super) fn azure(&self, settings: &AzureSettings) -> Result<Minters, StartError> {
        let guard = self.guard(&settings.guard);
        let ca: Arc<str> = settings.ca.as_deref().map(|ca| self.read(ca)).transpose()?.unwrap_or_default().into();
        let mut minters = Minters::new();
        for (id, role) in settings.roles.clone() {
            let (name, identity) = (self.role(&id)?, self.credential(&role.identity)?);
            let minter = AzureMinter::new(name.clone(), settings, role, Arc::clone(&ca), identity, Arc::clone(&guard));
            minters.insert(name, Arc::new(minter));
        }
        Ok(minters)
    }

    fn guard(&self, settings: &GuardSettings) -> Arc<Guard> {
        Guard::new(self.name.as_str().into(), settings.clone(), Arc::clone(self.clock))
    }

    fn account(&self, credential: &str, email: &str, iam_url: &str) -> Result<Arc<ServiceAccount>, StartError> {
        let account = ServiceAccount::new(self.credential(credential)?, email, iam_url, Arc::clone(self.clock));
        account.map(Arc::new).map_err(|broken| self.unusable(broken))
    }

    fn credential(&self, name: &str) -> Result<Arc<Credential>, StartError> {
        let found = self.credentials.get(name).cloned();
        found.ok_or_else(|| StartError::DatabaseCredential(self.name.clone(), name.to_owned()))
    }

    fn role(&self, id: &str) -> Result<RoleName, StartError> {
        self.name.role(id).map_err(|error| StartError::DatabaseRole(self.name.clone(), error))
    }

    fn unusable(&self, broken: Broken) -> StartError {
        StartError::CloudDatabase(self.name.clone(), broken)
    }

    fn read(&self, ca: &Path) -> Result<String, StartError> {
        std::fs::read_to_string(ca)
            .map_err(|error| StartError::DatabaseCa(self.name.clone(), CaError::Read(ca.to_owned(), error)))
    }
}
