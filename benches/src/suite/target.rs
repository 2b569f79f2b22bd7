//! The servers that are compared.

use std::any::Any;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use keyferry_benches::Outcome;
use keyferry_benches::load::{Load, Measured, Until};
use keyferry_benches::memory::Memory;
use keyferry_benches::processor::{on_one_core, processor_time};
use keyferry_broker::audit::Mode;

use crate::broker::{Broker, World};
use crate::figure::{Figure, Phase};
use crate::{CONNECTIONS, IN_FLIGHT, Options};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Echo,
    Broker,
    Synced,
}

/// One that runs.
pub(crate) struct Target {
    name: Name,
    process: u32,
    load: Load,
    /// Ends with it.
    _running: Box<dyn Any>,
}

impl Name {
    pub(crate) const ALL: [Self; 3] = [Self::Echo, Self::Broker, Self::Synced];

    pub(crate) fn parse(text: &str) -> Outcome<Self> {
        let known = Self::ALL.into_iter().find(|name| name.as_str() == text);
        known.ok_or_else(|| format!("{text}: not one of {}", Self::ALL.map(Self::as_str).join(", ")).into())
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Broker => "broker",
            Self::Synced => "synced",
        }
    }
}

impl Target {
    pub(crate) fn start(name: Name, options: &Options) -> Outcome<Self> {
        match name {
            Name::Echo => Self::echo(),
            Name::Broker => Self::broker(name, Mode::Written, options),
            Name::Synced => Self::broker(name, Mode::Synced, options),
        }
    }

    fn echo() -> Outcome<Self> {
        let world = World::new("")?;
        let mut command = on_one_core(&std::env::current_exe()?);
        let mut child = Killed(command.arg("--echo").arg(world.path()).stdout(Stdio::piped()).spawn()?);
        let mut port = String::new();
        BufReader::new(child.0.stdout.take().ok_or("no output")?).read_line(&mut port)?;
        let load = world.load(port.trim().parse()?, CONNECTIONS)?;
        Ok(Self { name: Name::Echo, process: child.0.id(), load, _running: Box::new((child, world)) })
    }

    fn broker(name: Name, audit: Mode, options: &Options) -> Outcome<Self> {
        let broker = Broker::start(&options.keyferry, audit)?;
        Ok(Self { name, process: broker.id(), load: broker.load(CONNECTIONS)?, _running: Box::new(broker) })
    }

    pub(crate) fn closed(&mut self, until: Until) -> Outcome<Figure> {
        self.figure(Phase::Closed, |load| load.closed(IN_FLIGHT, until))
    }

    pub(crate) fn open_loop(&mut self, rate: f64, during: Duration) -> Outcome<Figure> {
        self.figure(Phase::Open, |load| load.open_loop(rate, during))
    }

    fn figure(&mut self, phase: Phase, measure: impl FnOnce(&mut Load) -> Outcome<Measured>) -> Outcome<Figure> {
        let before = processor_time(self.process)?;
        let measured = measure(&mut self.load)?;
        let processor = processor_time(self.process)? - before;
        if measured.wrong > 0 {
            return Err(format!("{}: {} wrong or missing answers", self.name.as_str(), measured.wrong).into());
        }
        Ok(Figure { name: self.name, phase, measured, processor, resident: Memory::of(self.process)?.resident() })
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
