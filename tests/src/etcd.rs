//! A throwaway etcd on loopback, of one member or more; killed when dropped.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keyferry_broker::state::EtcdSettings;
use tempfile::TempDir;

#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<Option<Child>>,
    endpoints: Vec<String>,
    _directory: TempDir,
}

impl EtcdCluster {
    /// Returns at once: whoever needs an answer asks until there is one.
    pub fn start(size: usize) -> Self {
        let directory = TempDir::new().unwrap();
        let ports = free_ports(2 * size);
        let (clients, peers) = ports.split_at(size);
        let url = |port: &u16| format!("http://127.0.0.1:{port}");
        let everyone: Vec<String> = peers.iter().enumerate().map(|(n, port)| format!("m{n}={}", url(port))).collect();
        let start = |n: usize| {
            Command::new("etcd")
                .args(["--name", &format!("m{n}"), "--data-dir"])
                .arg(directory.path().join(format!("m{n}")))
                .args(["--listen-client-urls", &url(&clients[n]), "--advertise-client-urls", &url(&clients[n])])
                .args(["--listen-peer-urls", &url(&peers[n]), "--initial-advertise-peer-urls", &url(&peers[n])])
                .args(["--initial-cluster", &everyone.join(","), "--heartbeat-interval", "100"])
                .args(["--election-timeout", "1000", "--log-level", "error"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("the suite needs etcd: tools/install etcd")
        };
        let members = (0..size).map(|n| Some(start(n))).collect();
        Self { members, endpoints: clients.iter().map(url).collect(), _directory: directory }
    }

    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub fn settings(&self) -> EtcdSettings {
        EtcdSettings {
            endpoints: self.endpoints.clone(),
            prefix: "keyferry-test".to_owned(),
            ca: None,
            certificate: None,
            key: None,
            user: None,
            password_file: None,
            timeout: Duration::from_secs(3),
            session_ttl: Duration::from_secs(3),
        }
    }

    /// kill -9, for good.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for EtcdCluster {
    fn drop(&mut self) {
        for member in 0..self.members.len() {
            self.kill(member);
        }
    }
}

/// All held at once, so that no two are the same.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}
