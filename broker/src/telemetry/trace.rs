//! Which trace a call belongs to: W3C trace context in and out, and the call's own span.

use std::cell::Cell;

use http::{HeaderMap, HeaderValue};
use opentelemetry::trace::{Link, SpanKind};
use opentelemetry::trace::{SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, SamplingResult, ShouldSample,
};
use tonic::Code;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::metrics::code_name;

const TRACEPARENT: &str = "traceparent";

/// A call's place in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: u128,
    /// The caller's span; 0 where the trace starts here.
    pub parent: u64,
    /// This call's own span, the parent of whatever it causes elsewhere.
    pub span: u64,
    pub sampled: bool,
}

/// Decides what is traced.
#[derive(Clone, Copy, Debug)]
pub struct Traces {
    /// Whether spans go anywhere.
    pub(super) exported: bool,
    /// Share of the traces starting here that is recorded.
    pub(super) permille: u16,
}

impl Traces {
    /// Joins the caller's trace, or starts one where it sent none or a malformed one.
    pub fn accept(&self, headers: &HeaderMap) -> TraceContext {
        let mut sent = headers.get_all(TRACEPARENT).iter();
        let joined = match (sent.next(), sent.next()) {
            (Some(header), None) => TraceContext::parse(header.as_bytes()),
            _ => None,
        };
        joined.unwrap_or_else(|| self.start())
    }

    /// A trace that starts here.
    pub fn start(&self) -> TraceContext {
        let trace_id = random_trace_id();
        // The conventions' random part is the low 56 bits of the id.
        let share = ((trace_id & 0x00ff_ffff_ffff_ffff) * 1_000) >> 56;
        TraceContext {
            trace_id,
            parent: 0,
            span: random_span_id(),
            sampled: self.exported && share < self.permille.into(),
        }
    }

    /// The span of one call; `None` where nobody would see it, which costs nothing.
    ///
    /// `method` is a name from the table, or [`super::names::OTHER_METHOD`].
    pub fn call_span(&self, method: &'static str, context: &TraceContext) -> Option<Span> {
        if !self.exported || !context.sampled {
            return None;
        }
        let span = tracing::info_span!(
            target: "keyferry::call",
            parent: None,
            "call",
            otel.name = method,
            otel.kind = "server",
            rpc.system.name = "grpc",
            rpc.method = method,
            rpc.response.status_code = tracing::field::Empty,
            error.r#type = tracing::field::Empty,
            trace_id = %format_args!("{:032x}", context.trace_id),
        );
        if context.parent != 0 {
            // Fails only where no OpenTelemetry layer listens, and then the span goes nowhere anyway.
            let _ = span.set_parent(Context::new().with_remote_span_context(context.remote()));
        }
        // Asking for its context starts the span, here, while its ids are pinned.
        PINNED.set(Some((context.trace_id, context.span)));
        let _ = span.context();
        PINNED.set(None);
        Some(span)
    }
}

/// Notes how the call went. The span ends when it is dropped.
pub fn finish(span: &Span, code: Code) {
    span.record("rpc.response.status_code", code_name(code));
    // What the conventions count as a server's own failure; the others are answers.
    let ours = matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    );
    if ours {
        span.record("error.type", code_name(code));
        span.set_status(Status::error(""));
    }
}

impl TraceContext {
    /// What the caller sent, or `None` where the specification says to ignore it.
    pub fn parse(header: &[u8]) -> Option<Self> {
        let (version, rest) = header.split_at_checked(2)?;
        let version = hex(version)?;
        let (fields, beyond) = rest.split_at_checked(53)?;
        let may_be_read = match version {
            0 => beyond.is_empty(),
            0xff => false,
            // A later version may add fields behind another dash.
            _ => beyond.is_empty() || beyond.starts_with(b"-"),
        };
        if !may_be_read || fields[0] != b'-' || fields[33] != b'-' || fields[50] != b'-' {
            return None;
        }
        let trace_id = hex(&fields[1..33])?;
        let parent = u64::try_from(hex(&fields[34..50])?).ok()?;
        let flags = hex(&fields[51..53])?;
        (trace_id != 0 && parent != 0).then(|| Self {
            trace_id,
            parent,
            span: random_span_id(),
            sampled: flags & 1 == 1,
        })
    }

    /// For calls made on behalf of this one.
    pub fn to_header(&self) -> HeaderValue {
        let text = format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span, u8::from(self.sampled));
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    fn remote(&self) -> SpanContext {
        let flags = if self.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        SpanContext::new(TraceId::from(self.trace_id), SpanId::from(self.parent), flags, true, TraceState::NONE)
    }
}

/// Lower-case digits only, as the specification demands.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

thread_local! {
    static PINNED: Cell<Option<(u128, u64)>> = const { Cell::new(None) };
}

/// Gives a call's span the ids that its audit record and its outgoing headers carry; all others get random ones.
#[derive(Debug, Default)]
pub(super) struct PinnedIds(RandomIdGenerator);

impl IdGenerator for PinnedIds {
    fn new_trace_id(&self) -> TraceId {
        PINNED.get().map_or_else(|| self.0.new_trace_id(), |(trace_id, _)| TraceId::from(trace_id))
    }

    fn new_span_id(&self) -> SpanId {
        PINNED.get().map_or_else(|| self.0.new_span_id(), |(_, span)| SpanId::from(span))
    }
}

/// Records call spans and what happens under them. Without it, the spans under a call that is not recorded would each
/// begin a trace of their own.
#[derive(Clone, Debug)]
pub(super) struct OnlyCalls;

impl OnlyCalls {
    pub(super) fn sampler() -> Sampler {
        Sampler::ParentBased(Box::new(Self))
    }
}

impl ShouldSample for OnlyCalls {
    fn should_sample(
        &self,
        _parent: Option<&Context>,
        _trace: TraceId,
        _name: &str,
        _kind: &SpanKind,
        _attributes: &[KeyValue],
        _links: &[Link],
    ) -> SamplingResult {
        let decision = match PINNED.get() {
            Some(_) => SamplingDecision::RecordAndSample,
            None => SamplingDecision::Drop,
        };
        SamplingResult { decision, attributes: Vec::new(), trace_state: TraceState::NONE }
    }
}

fn random_trace_id() -> u128 {
    nonzero(|| u128::from_be_bytes(RandomIdGenerator::default().new_trace_id().to_bytes()))
}

fn random_span_id() -> u64 {
    nonzero(|| u64::from_be_bytes(RandomIdGenerator::default().new_span_id().to_bytes()))
}

/// All zeros means "none" on the wire.
fn nonzero<T: Default + PartialEq>(random: impl Fn() -> T) -> T {
    loop {
        let id = random();
        if id != T::default() {
            return id;
        }
    }
}

#[cfg(test)]
#[path = "tests/trace.rs"]
mod tests;
