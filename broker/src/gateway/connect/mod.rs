//! Connect's unary calls: one HTTP request with one message, JSON or protobuf, and one answer with a status of HTTP.

mod answer;
mod error;
mod query;
mod request;

pub(super) use answer::answer;
pub(super) use request::{Asked, request, timeout};
