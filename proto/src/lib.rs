//! Keyferry's gRPC contract: the messages, servers and clients generated from `keyferry/v1/*.proto`; and beside it what
//! Keyferry speaks of Envoy's, from `envoy/` and `google/`.
//!
//! The generated code is checked in, so that building needs no protobuf compiler. After a change of a `.proto` file run
//! `KEYFERRY_REGENERATE=1 cargo test -p keyferry-proto --test generated`.

mod any;
mod redacted;

pub use any::Any;

/// Version 1 of the contract.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    missing_docs,
    rust_2018_idioms,
    rustdoc::all,
    unreachable_pub
)]
pub mod v1 {
    include!("gen/keyferry.v1.rs");
}

/// Envoy's secret discovery service, in the packages that Envoy gives it.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    missing_debug_implementations,
    missing_docs,
    rust_2018_idioms,
    rustdoc::all,
    unreachable_pub
)]
pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                include!("gen/envoy.config.core.v3.rs");
            }
        }
    }
    pub mod extensions {
        pub mod transport_sockets {
            pub mod tls {
                pub mod v3 {
                    include!("gen/envoy.extensions.transport_sockets.tls.v3.rs");
                }
            }
        }
    }
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                include!("gen/envoy.service.discovery.v3.rs");
            }
        }
        pub mod secret {
            pub mod v3 {
                include!("gen/envoy.service.secret.v3.rs");
            }
        }
    }
}

/// What Envoy's messages use of Google's.
pub mod google {
    #[allow(clippy::all, clippy::pedantic, clippy::restriction, missing_docs, rust_2018_idioms, rustdoc::all)]
    pub mod rpc {
        include!("gen/google.rpc.rs");
    }
}

/// The encoded descriptors of the contract and of what it imports, Envoy's included, for server reflection and for going
/// over all methods.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/keyferry.v1.bin");
