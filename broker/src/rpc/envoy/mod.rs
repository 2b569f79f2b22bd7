//! Envoy's `SecretDiscoveryService`, in both its variants: proto in, domain call, proto out.

mod conversation;
mod follower;
#[cfg(test)]
mod fuzz;
mod messages;
mod offers;

use std::collections::BTreeSet;
use std::pin::Pin;

use futures_util::{Stream, StreamExt as _, stream};
use keyferry_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use keyferry_proto::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryService;
use tonic::{Request, Response, Status, Streaming};

use self::conversation::{Conversation, Opened};
use self::messages::{Asked, Published, check_type, delta, state_of_the_world, version_info};
use super::call::{Call, answer};
use crate::audit::Receipt;
use crate::error::{Failure, Reason};
use crate::gateway::sds::Board;
use crate::rotation::watch::Watches;

/// Resources that one stream, or one call, may ask for.
const MAX_NAMES: usize = 100;
const MAX_NAME: usize = 256;

/// The service, on the resources that are declared and the log that tells of changes.
#[derive(Clone, Debug)]
pub struct EnvoyRpc {
    pub board: Board,
    pub watches: Watches,
}

type Told<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for EnvoyRpc {
    type StreamSecretsStream = Told<DiscoveryResponse>;
    type DeltaSecretsStream = Told<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        answer(request, |call, asked| async move {
            let asked = asked.map(|asked| asked.map(Asked::from)).boxed();
            let opened = Conversation::open(self.clone(), call, asked).await?;
            Ok(move |receipt: &Receipt| told(opened, receipt, state_of_the_world))
        })
        .await
    }

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        answer(request, |call, asked| async move {
            let asked = asked.map(|asked| asked.map(Asked::from)).boxed();
            let opened = Conversation::open(self.clone(), call, asked).await?;
            Ok(move |receipt: &Receipt| told(opened, receipt, delta))
        })
        .await
    }

    /// All that is asked for, or nothing.
    async fn fetch_secrets(&self, request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        answer(request, |call, DiscoveryRequest { resource_names, type_url, .. }| async move {
            check_type(&type_url)?;
            check_count(resource_names.len())?;
            check_lengths(&resource_names)?;
            call.draft.note(|record| record.resource = Some(resource_names.join(" ").into()));
            // Each once, in whatever order they are asked for.
            let names = resource_names.iter().collect::<BTreeSet<_>>();
            let mut offers = Vec::with_capacity(names.len());
            for name in names {
                let judged = self.judge(&call, name).await;
                call.draft.note(|record| judged.note(record, true));
                offers.push(judged.result?);
            }
            let board = self.board.clone();
            Ok(move |receipt: &Receipt| {
                offers.iter().for_each(|offer| board.published(&offer.name));
                let resources: Vec<_> = offers.iter().map(|offer| offer.disclose(receipt)).collect();
                let version = version_info(resources.iter().map(|one| (one.name.as_str(), one.version.as_str())));
                state_of_the_world(Published { nonce: String::new(), version, resources })
            })
        })
        .await
    }
}

/// The stream from its first answer on, which the call's own record covers.
fn told<T: Send + 'static>(opened: Opened, receipt: &Receipt, write: fn(Published) -> T) -> Told<T> {
    let (first, conversation) = opened.begin(receipt);
    let first = stream::iter(first.map(|published| Ok(write(published))));
    let rest = stream::unfold(Some(conversation), move |conversation| async move {
        let mut conversation = conversation?;
        match conversation.next().await {
            Ok(Some(published)) => Some((Ok(write(published)), Some(conversation))),
            Ok(None) => None,
            Err(failure) => Some((Err(failure.into()), None)),
        }
    });
    first.chain(rest).boxed()
}

fn check_count(count: usize) -> Result<(), Failure> {
    if count <= MAX_NAMES {
        return Ok(());
    }
    let description = format!("has {count} entries; ask for at most {MAX_NAMES} by one stream");
    Err(Failure::bad_field(Reason::InvalidArgument, "resource_names", description))
}

/// A stream keeps what it is asked for, also where there is no such resource.
fn check_lengths<'a>(names: impl IntoIterator<Item = &'a String>) -> Result<(), Failure> {
    if names.into_iter().all(|name| name.len() <= MAX_NAME) {
        return Ok(());
    }
    let description = format!("has a name of more than {MAX_NAME} bytes, which no resource has");
    Err(Failure::bad_field(Reason::InvalidArgument, "resource_names", description))
}

/// Somebody who may not have a resource, and somebody who asks for one that there is not, hear the same.
fn hidden(call: &Call, name: &str) -> Failure {
    let name: String = name.chars().take(128).collect();
    let message = format!(
        "{} may not have the resource {name:?}, or there is none; ExplainAccess on its secrets tells why",
        call.caller.id()
    );
    Failure::new(Reason::AccessDenied, message)
}
