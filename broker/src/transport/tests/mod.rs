mod bounds;
mod draining;
mod handshakes;
mod reloading;
mod trust;
mod world;

pub(super) use world::limits;
