//! The admin port's listener: plain on loopback, or over TLS under the certificate and the client CAs that callers know.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::{Background, Parts, StartError, bind, serving};
use crate::admin::{self, Admin, Door, Guard, Pages};
use crate::clock::SharedClock;
use crate::config::ListenSettings;
use crate::identity::Authenticator;
use crate::report;
use crate::telemetry::Metrics;
use crate::transport::{ClientCertificate, Limits, RequestIds, Tls, TlsSettings, serve};

pub(super) struct AdminPort {
    listener: TcpListener,
    pub(super) address: SocketAddr,
    tls: Option<Arc<Tls>>,
}

impl AdminPort {
    pub(super) async fn open(
        listen: &ListenSettings,
        tls: &TlsSettings,
        clock: &SharedClock,
    ) -> Result<Option<Self>, StartError> {
        let Some(address) = listen.admin else { return Ok(None) };
        let tls = match listen.admin_tls {
            false => None,
            true => {
                // Probes have no certificate; who asks for more is asked for one.
                let settings = TlsSettings { client_certificate: ClientCertificate::Optional, ..tls.clone() };
                Some(Tls::load(&settings, Arc::clone(clock))?)
            }
        };
        let (listener, address) = bind(address).await?;
        Ok(Some(Self { listener, address, tls }))
    }

    pub(super) fn serve(
        self,
        parts: &Arc<Parts>,
        metrics: &Arc<Metrics>,
        authenticator: &Arc<Authenticator>,
        limits: &Limits,
        background: &Background,
    ) -> Result<(), StartError> {
        let (asked, shown) = (Arc::clone(parts), Arc::clone(parts));
        let pages =
            Pages::new(Arc::clone(metrics), move || report::obstacles(&asked), move || report::overview(&shown));
        let Some(tls) = self.tls else {
            background.spawn(Admin::new(pages).serve(self.listener, background.stop.clone()));
            return Ok(());
        };
        let stats = Arc::clone(tls.stats());
        metrics.register(move |out| report::connections("admin", &stats, out));
        background.spawn(Arc::clone(&tls).watch(background.stop.clone()));
        let door = Door::new(Guard {
            pages,
            authenticator: Arc::clone(authenticator),
            gate: Arc::clone(&parts.gate),
            log: parts.log.clone(),
            clock: Arc::clone(&parts.clock),
            request_ids: RequestIds::new()?,
            deadline: limits.default_deadline,
        });
        let (limits, held) = (admin::limits(limits), parts.drain.clone());
        let ended = async move { serve(self.listener, tls, &limits, door, held).await };
        background.tasks.spawn(serving("admin", ended, parts.drain.clone()));
        Ok(())
    }
}
