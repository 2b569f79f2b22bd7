//! The gateways that the broker brings up to date itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Background, Credentials, StartError};
use crate::gateway::api_management::{Account, Around, GatewaySettings, Refresher};
use crate::names::SecretName;
use crate::rotation::subscribers::{Gateway, Place, SubscriberName};

/// Not at work yet.
pub(super) struct Gateways(Vec<(Gateway, GatewaySettings)>);

impl Gateways {
    pub(super) fn new(settings: BTreeMap<SubscriberName, GatewaySettings>) -> Result<Self, StartError> {
        let gateways = settings.into_iter().map(|(name, settings)| {
            let gateway = settings.gateway(name.clone());
            gateway.map(|gateway| (gateway, settings)).map_err(|error| StartError::Gateway(name.into(), error))
        });
        gateways.collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn places(&self) -> BTreeSet<Place> {
        self.0.iter().map(|(gateway, _)| gateway.place()).collect()
    }

    /// What they hold.
    pub(super) fn secrets(&self) -> BTreeSet<SecretName> {
        let sources = self.0.iter().flat_map(|(_, settings)| settings.named_values.values());
        sources.map(|source| source.secret.clone()).collect()
    }

    pub(super) fn start(
        self,
        credentials: &Credentials,
        around: &Around,
        background: &Background,
    ) -> Result<Vec<Arc<Account>>, StartError> {
        let mut accounts = Vec::new();
        for (gateway, settings) in self.0 {
            let name = gateway.name().to_owned();
            let credential = credentials.get(&settings.credential).cloned();
            let credential = credential.ok_or_else(|| StartError::GatewayCredential(name.clone()))?;
            let refresher = Refresher::new(settings, gateway, credential, around.clone());
            let refresher = refresher.map_err(|error| StartError::GatewayCloud(name, error))?;
            accounts.push(refresher.account());
            background.spawn(refresher.run());
        }
        Ok(accounts)
    }
}
