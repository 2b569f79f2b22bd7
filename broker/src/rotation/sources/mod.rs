//! Who tells the broker what happened to secrets outside it: the clouds' events, and a look for oneself.

pub mod azure;
pub mod google;
mod intake;
mod places;
mod poll;
mod pull;
mod settings;
mod told;

pub use intake::{Account, Intake, Outcome};
pub use places::{Place, Places};
pub use poll::{Poll, Polled};
pub use pull::{Bearer, Pull};
pub use settings::{Demand, EventSettings, PullSettings, PushSettings, SenderSettings, SourceSettings};
pub use told::Told;
