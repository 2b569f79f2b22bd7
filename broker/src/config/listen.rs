//! `[listen]`: the ports.

use std::net::SocketAddr;

use super::kind::{address, address_or_off, boolean};
use super::reader::Reader;
use super::section::Section;
use super::url::web_origin;

/// An unspecified IPv6 address means all interfaces, IPv4 too. Port 0 lets the kernel choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSettings {
    pub grpc: SocketAddr,
    pub web_origins: Vec<String>,
    pub web: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub admin_tls: bool,
}

pub(super) fn read(reader: &mut Reader<'_>) -> ListenSettings {
    reader.section("listen", "The ports; port 0 lets the kernel choose one.", |s| {
        let listen = ListenSettings {
            grpc: s.with_default("grpc", address(), ":7443", "gRPC, gRPC-Web and JSON, for callers."),
            web_origins: s.list_or_empty(
                "web_origins",
                &web_origin(),
                "The origins whose pages may call from a browser, by gRPC-Web or JSON; no other page may.",
            ),
            web: s.with_default(
                "web",
                address_or_off(),
                "off",
                "Webhooks, and the discovery and keys of the broker's own issuer; TLS without client certificates.",
            ),
            admin: s.with_default(
                "admin",
                address_or_off(),
                "127.0.0.1:7445",
                "Health, Prometheus metrics and the status page.",
            ),
            admin_tls: s.with_default(
                "admin_tls",
                boolean(),
                "false",
                "Whether the admin port speaks TLS and demands a client certificate; it must, \
                 on anything but loopback.",
            ),
        };
        refuse_open_admin(&listen, s);
        refuse_shared_ports(&listen, s);
        listen
    })
}

fn refuse_open_admin(listen: &ListenSettings, s: &mut Section<'_, '_>) {
    if let Some(admin) = listen.admin
        && !admin.ip().is_loopback()
        && !listen.admin_tls
    {
        s.refuse(
            "admin",
            "leaves this machine without TLS; \
                           write a loopback address such as \"127.0.0.1:7445\", or admin_tls = true",
        );
    }
}

fn refuse_shared_ports(listen: &ListenSettings, s: &mut Section<'_, '_>) {
    let ports = [("grpc", Some(listen.grpc)), ("web", listen.web), ("admin", listen.admin)];
    for (index, (key, address)) in ports.iter().enumerate() {
        let taken = |(_, other): &&(&str, Option<SocketAddr>)| overlap(*address, *other);
        if let Some((other, _)) = ports[..index].iter().find(taken) {
            s.refuse(key, &format!("has the address of {other}; write another port"));
        }
    }
}

fn overlap(a: Option<SocketAddr>, b: Option<SocketAddr>) -> bool {
    let (Some(a), Some(b)) = (a, b) else {
        return false;
    };
    let same_host = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && same_host
}
