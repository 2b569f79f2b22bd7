mod bounds;
mod draining;
mod handshakes;
mod reloading;
mod world;
