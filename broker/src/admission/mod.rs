//! Who may do what: policy and quota behind one gate, whose permit everything deeper demands.

mod action;
mod decisions;
mod explain;
mod gate;
mod kept;
mod policy;
mod profile;
mod quota;
mod store;

#[cfg(test)]
mod tests;

pub use action::{Action, Circumstances, Resource};
pub use explain::{Explanation, Weighed};
pub(crate) use gate::denied;
pub use gate::{Gate, Inquiry, Permit, Refused};
pub use policy::{Policies, PolicyError, Verdict};
pub use profile::{CertificateFacts, DescribedCertificate, Description, Profile, TokenFacts};
pub use quota::{Allowance, Bucket, Quota, QuotaClass, QuotaSettings};
pub use store::{PolicyStatus, PolicyStore};
