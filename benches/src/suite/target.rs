//! The servers that are compared.

use std::any::Any;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use keyferry_benches::Outcome;
use keyferry_benches::load::{Load, Measured, Protocol, Until};
use keyferry_benches::memory::Memory;
use keyferry_benches::processor::{on_one_core, processor_time};
use keyferry_broker::audit::Mode;

use crate::broker::{Broker, World};
use crate::figure::{Figure, Phase};
use crate::vault::Vault;
use crate::{CONNECTIONS, IN_FLIGHT, Options};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Echo,
    Broker,
    Synced,
    OpenBao,
    OpenBaoHttp2,
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
    pub(crate) const ALL: [Self; 5] = [Self::Echo, Self::Broker, Self::Synced, Self::OpenBao, Self::OpenBaoHttp2];

    pub(crate) fn parse(text: &str) -> Outcome<Self> {
        let known = Self::ALL.into_iter().find(|name| name.as_str() == text);
        known.ok_or_else(|| format!("{text}: not one of {}", Self::ALL.map(Self::as_str).join(", ")).into())
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Broker => "broker",
            Self::Synced => "synced",
            Self::OpenBao => "openbao",
            Self::OpenBaoHttp2 => "openbao-h2",
        }
    }

    /// As a reader of the page knows it.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Echo => "bare echo",
            Self::Broker => "Keyferry",
            Self::Synced => "Keyferry, audit synced",
            Self::OpenBao => "OpenBao, HTTP/1.1",
            Self::OpenBaoHttp2 => "OpenBao, HTTP/2",
        }
    }

    pub(crate) fn is_openbao(self) -> bool {
        matches!(self, Self::OpenBao | Self::OpenBaoHttp2)
    }
}

impl Target {
    pub(crate) fn start(name: Name, options: &Options) -> Outcome<Self> {
        match name {
            Name::Echo => Self::echo(),
            Name::Broker => Self::broker(name, Mode::Written, options),
            Name::Synced => Self::broker(name, Mode::Synced, options),
            // It has one call at a time on a connection.
            Name::OpenBao => Self::openbao(name, Protocol::Http1, IN_FLIGHT, options),
            Name::OpenBaoHttp2 => Self::openbao(name, Protocol::Http2, CONNECTIONS, options),
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

    fn openbao(name: Name, protocol: Protocol, connections: usize, options: &Options) -> Outcome<Self> {
        let vault = Vault::start(options.bao.as_deref().ok_or("name OpenBao's binary too")?)?;
        Ok(Self { name, process: vault.id(), load: vault.load(protocol, connections)?, _running: Box::new(vault) })
    }

    pub(crate) fn name(&self) -> Name {
        self.name
    }

    pub(crate) fn closed(&mut self, until: Until) -> Outcome<Figure> {
        self.figure(Phase::Closed, |load| load.closed(IN_FLIGHT, until))
    }

    pub(crate) fn open_loop(&mut self, phase: Phase, rate: f64, during: Duration) -> Outcome<Figure> {
        self.figure(phase, |load| load.open_loop(rate, during))
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
