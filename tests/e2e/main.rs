//! End to end: a real broker, real clients, real files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may stop at the first surprise, and says what it counted"
)]

mod admin;
mod admin_tls;
mod api_management;
mod attacks;
mod audit;
mod audit_faults;
mod bad_input;
mod browsers;
mod cache;
mod calls;
mod canary;
mod certificates;
#[cfg(feature = "etcd")]
mod chaos;
mod cloud_databases;
mod cloud_doubles;
mod cloud_identity;
mod commands;
mod connect_clients;
mod consistency;
mod deploy;
mod dev;
mod envoy;
mod exec_command;
mod explain;
mod identity_doubles;
mod impostors;
mod issuer;
mod issuers;
mod json;
mod key_vault;
mod languages;
mod log;
mod mint_command;
mod postgres;
mod propagation;
mod providers;
mod reach;
mod readme;
mod reload;
mod render_command;
mod rights;
mod rotation;
mod rotation_custody;
mod rotation_faults;
mod rotation_login;
mod rotation_subscribers;
mod rotations_command;
mod sandbox;
mod sds;
mod secret_manager;
mod sources;
mod state;
mod state_command;
#[cfg(feature = "etcd")]
mod state_etcd;
mod status;
mod status_command;
mod status_page;
mod threats;
mod token_faults;
mod token_links;
#[cfg(feature = "etcd")]
mod token_replicas;
mod tokens;
mod transport;
mod visibility;
mod watch;
mod watch_command;
mod watch_faults;
mod watch_lag;
#[cfg(feature = "etcd")]
mod watch_restored;

mod web;
