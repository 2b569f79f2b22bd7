//! What a client reads from a refusal.

use tonic::Status;
use tonic_types::StatusExt as _;

/// The reason of a refusal, which must carry one in our domain and say something.
#[track_caller]
pub(crate) fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "keyferry");
    assert!(status.message().len() > 20, "says too little: {status:?}");
    info.reason
}

#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>) -> String {
    reason(&outcome.unwrap_err())
}
