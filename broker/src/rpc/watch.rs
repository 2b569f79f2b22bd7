//! `WatchRotations`: a stream whose messages are put into bytes once for all who receive them.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use bytes::BufMut as _;
use futures_util::future::BoxFuture;
use futures_util::{Stream, stream};
use http::{Request as HttpRequest, Response as HttpResponse};
use keyferry_proto::v1::{RotationFilter, WatchRotationsRequest};
use prost::Message as _;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, ServerStreamingService};
use tonic::{Request, Response, Status};

use super::call::{Call, reply};
use super::proto_time::duration;
use super::watch_messages::{Wire, encode};
use crate::audit::Decision;
use crate::error::{Failure, Reason};
use crate::rotation::subscribers::SubscriberName;
use crate::rotation::watch::{Filter, FilterError, Subscription, Viewer, Watches, Wish};

const LONGEST_WINDOW: Duration = Duration::from_secs(60);
/// What a stream may have in bytes before it waits for its peer, and what it holds while it is idle.
const SEND_AT_ONCE: usize = 8 * 1024;

/// Stands in for the generated server, which encodes each message for each receiver and keeps a buffer for each.
#[derive(Clone, Debug)]
pub(super) struct WatchRpc {
    pub(super) watches: Watches,
    pub(super) message_bytes: usize,
}

type Told = Pin<Box<dyn Stream<Item = Result<Wire, Status>> + Send>>;

impl WatchRpc {
    pub(super) async fn call(&self, request: HttpRequest<Body>) -> Result<HttpResponse<Body>, Infallible> {
        let grpc = Grpc::new(Encoded);
        let mut grpc = grpc.apply_max_message_size_config(Some(self.message_bytes), None);
        Ok(grpc.server_streaming(self.clone(), request).await)
    }

    async fn open(&self, call: Call, message: WatchRotationsRequest) -> Result<Subscription, Failure> {
        let wish = self.wish(&call, message)?;
        call.meter()?;
        let policy = call.gate.policies().current().hash();
        let opened = self.watches.open(wish).await;
        let decision = match &opened {
            Ok(_) => Decision::Allow,
            Err(failure) if failure.reason() == Reason::AccessDenied => Decision::Deny,
            Err(_) => Decision::None,
        };
        call.draft.note(|record| (record.decision, record.policy) = (decision, Some(policy)));
        opened
    }

    fn wish(&self, call: &Call, message: WatchRotationsRequest) -> Result<Wish, Failure> {
        let filter = filter(message.filter.unwrap_or_default())?;
        let resource = filter.shown().into();
        call.draft.note(|record| record.resource = Some(resource));
        let subscriber = match message.subscriber.as_str() {
            "" => None,
            name => Some(subscriber_name(name)?),
        };
        let window = message.coalesce_window.as_ref().map(|span| duration("coalesce_window", span)).transpose()?;
        let window = window.unwrap_or_default();
        if window > LONGEST_WINDOW {
            let description = format!("is longer than {LONGEST_WINDOW:?}; shorten it");
            return Err(Failure::bad_field(Reason::InvalidArgument, "coalesce_window", description));
        }
        let viewer = Viewer::new(self.watches.sight().clone(), call.caller.clone(), call.peer.ip(), filter);
        Ok(Wish { viewer, subscriber, cursor: message.cursor, window })
    }
}

impl ServerStreamingService<WatchRotationsRequest> for WatchRpc {
    type Response = Wire;
    type ResponseStream = Told;
    type Future = BoxFuture<'static, Result<Response<Told>, Status>>;

    fn call(&mut self, request: Request<WatchRotationsRequest>) -> Self::Future {
        let rpc = self.clone();
        Box::pin(async move {
            let opened = reply(request, |call, message| async move { rpc.open(call, message).await });
            Ok(opened.await?.map(told))
        })
    }
}

fn told(subscription: Subscription) -> Told {
    Box::pin(stream::unfold(Some(subscription), |subscription| async {
        let mut subscription = subscription?;
        match subscription.next().await {
            Ok(message) => Some((Ok(encode(message)), Some(subscription))),
            Err(failure) => Some((Err(failure.into()), None)),
        }
    }))
}

fn filter(filter: RotationFilter) -> Result<Filter, Failure> {
    Filter::new(&filter.names, filter.prefixes, filter.labels).map_err(|error| {
        let reason = match &error {
            FilterError::Name(..) => Reason::InvalidName,
            FilterError::Empty | FilterError::TooMany | FilterError::Prefix | FilterError::Text => {
                Reason::InvalidArgument
            }
        };
        Failure::bad_field(reason, "filter", error.to_string())
    })
}

pub(super) fn subscriber_name(name: &str) -> Result<SubscriberName, Failure> {
    SubscriberName::parse(name)
        .map_err(|error| Failure::bad_field(Reason::InvalidArgument, "subscriber", error.to_string()))
}

/// Messages that are bytes already.
#[derive(Clone, Copy, Debug)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Wire;
    type Decode = WatchRotationsRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Encoded {
    type Item = Wire;
    type Error = Status;

    fn encode(&mut self, wire: Wire, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(wire.len());
        to.put_slice(&wire.cursor);
        to.put_slice(&wire.told);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(0, SEND_AT_ONCE)
    }
}

impl Decoder for Encoded {
    type Item = WatchRotationsRequest;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<WatchRotationsRequest>, Status> {
        WatchRotationsRequest::decode(from).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
