//! The web port's listener and certificate, apart from those of callers.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::{Background, StartError, bind, serving};
use crate::clock::SharedClock;
use crate::gateway::{Route, Web};
use crate::report;
use crate::telemetry::Metrics;
use crate::transport::{ClientCertificate, Drain, Limits, Tls, TlsSettings, serve};

pub(super) struct WebPort {
    listener: TcpListener,
    pub(super) address: SocketAddr,
    tls: Arc<Tls>,
}

impl WebPort {
    pub(super) async fn open(address: SocketAddr, tls: &TlsSettings, clock: SharedClock) -> Result<Self, StartError> {
        // The same certificate, but nobody is asked for theirs.
        let settings = TlsSettings { client_certificate: ClientCertificate::NotAsked, ..tls.clone() };
        let tls = Tls::load(&settings, clock)?;
        let (listener, address) = bind(address).await?;
        Ok(Self { listener, address, tls })
    }

    pub(super) fn serve(
        self,
        routes: Vec<Route>,
        limits: &Limits,
        drain: &Drain,
        metrics: &Metrics,
        background: &Background,
    ) {
        let web = Web::new(routes, limits.default_deadline);
        let (counted, stats) = (web.clone(), Arc::clone(self.tls.stats()));
        metrics.register(move |out| {
            report::connections("web", &stats, out);
            counted.samples(out);
        });
        background.spawn(Arc::clone(&self.tls).watch(background.stop.clone()));
        let (limits, held) = (Web::limits(limits), drain.clone());
        let ended = async move { serve(self.listener, self.tls, &limits, web, held).await };
        background.tasks.spawn(serving("web", ended, drain.clone()));
    }
}
