//! What every request to a cloud passes: its store's budget, its breaker, and the rules of trying again.

use std::future::Future;

use crate::error::Failure;

/// One store's guard. Requests go through it one by one, so that what it counts is what the cloud counts.
#[derive(Debug)]
pub struct Guard {}

/// The classes that providers count apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Reading values.
    Access,
    /// Reading metadata.
    Metadata,
    /// Writing.
    Write,
}

impl Guard {
    /// `request` sends one request, and may be called again where its failure is one that passes.
    pub async fn call<T, F>(&self, _operation: Operation, mut request: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        request().await
    }

    /// For a request that must not be sent twice.
    pub async fn once<T>(
        &self,
        _operation: Operation,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        request.await
    }
}
