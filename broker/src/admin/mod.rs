//! The admin port: is it alive, is it ready, what does it count, how is it. Plain on loopback; elsewhere over TLS, where all
//! but the first two want a caller whom policy permits `GetStatus`.

mod html;
mod overview;
mod pages;
mod plain;
mod secured;
mod status_page;

pub use overview::{Overview, RotationRow, RunRow, SubscriberRow, TargetRow};
pub use pages::Pages;
pub use plain::Admin;
pub use secured::{Door, Guard, limits};
