//! A throwaway etcd on loopback, of one member or more; killed when dropped.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keyferry_broker::state::EtcdSettings;
use tempfile::TempDir;

use crate::pki::{Ca, Issued};

#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<Member>,
    endpoints: Vec<String>,
    directory: TempDir,
    /// Written beside the members' data, where they speak TLS.
    tls: bool,
}

#[derive(Debug)]
struct Member {
    command: Command,
    process: Option<Child>,
}

impl EtcdCluster {
    /// Returns at once: whoever needs an answer asks until there is one.
    pub fn start(size: usize) -> Self {
        Self::start_in(TempDir::new().unwrap(), size, false)
    }

    /// One member that takes TLS only, and only clients with this CA's certificates.
    pub fn start_with_tls(ca: &Ca, client: &Issued) -> Self {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("ca.pem"), ca.pem()).unwrap();
        ca.server("etcd.test").write(directory.path(), "member");
        client.write(directory.path(), "client");
        Self::start_in(directory, 1, true)
    }

    fn start_in(directory: TempDir, size: usize, tls: bool) -> Self {
        let scheme = if tls { "https" } else { "http" };
        let file = |name: &str| directory.path().join(name);
        let ports = free_ports(2 * size);
        let (clients, peers) = ports.split_at(size);
        let url = |port: &u16| format!("http://127.0.0.1:{port}");
        let client_url = |port: &u16| format!("{scheme}://127.0.0.1:{port}");
        let everyone: Vec<String> = peers.iter().enumerate().map(|(n, port)| format!("m{n}={}", url(port))).collect();
        let command = |n: usize| {
            let mut command = Command::new("etcd");
            if tls {
                command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(file("ca.pem"));
                command.arg("--cert-file").arg(file("member.pem")).arg("--key-file").arg(file("member.key"));
            }
            command
                .args(["--name", &format!("m{n}"), "--data-dir"])
                .arg(directory.path().join(format!("m{n}")))
                .args(["--listen-client-urls", &client_url(&clients[n])])
                .args(["--advertise-client-urls", &client_url(&clients[n])])
                .args(["--listen-peer-urls", &url(&peers[n]), "--initial-advertise-peer-urls", &url(&peers[n])])
                .args(["--initial-cluster", &everyone.join(","), "--heartbeat-interval", "100"])
                .args(["--election-timeout", "1000", "--log-level", "error"])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command
        };
        let members = (0..size).map(|n| Member { command: command(n), process: None }).collect();
        let mut cluster = Self { members, endpoints: clients.iter().map(client_url).collect(), directory, tls };
        (0..size).for_each(|member| cluster.resume(member));
        cluster
    }

    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub fn settings(&self) -> EtcdSettings {
        EtcdSettings {
            endpoints: self.endpoints.clone(),
            prefix: "keyferry-test".to_owned(),
            ca: self.file("ca.pem"),
            certificate: self.file("client.pem"),
            key: self.file("client.key"),
            user: None,
            password_file: None,
            timeout: Duration::from_secs(3),
            session_ttl: Duration::from_secs(3),
        }
    }

    /// The same as a broker's configuration.
    pub fn configuration(&self) -> String {
        let settings = self.settings();
        format!("[state]\nkind = \"etcd\"\nendpoints = {:?}\nprefix = {:?}\n", settings.endpoints, settings.prefix)
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        self.tls.then(|| self.directory.path().join(name))
    }

    /// kill -9.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut process) = self.members[member].process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// A member that was killed is started again, with what it had on disk.
    pub fn resume(&mut self, member: usize) {
        let Member { command, process } = &mut self.members[member];
        *process = Some(command.spawn().expect("the suite needs etcd: tools/install etcd"));
    }

    /// What the only member has on disk, which is down for that moment.
    pub fn back_up(&mut self) -> TempDir {
        let backup = TempDir::new().unwrap();
        self.kill(0);
        copy(&self.directory.path().join("m0"), backup.path());
        self.resume(0);
        backup
    }

    /// Whatever was written since is gone.
    pub fn restore(&mut self, backup: &TempDir) {
        self.kill(0);
        fs::remove_dir_all(self.directory.path().join("m0")).unwrap();
        copy(&backup.path().join("m0"), self.directory.path());
        self.resume(0);
    }
}

fn copy(from: &Path, into: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, into]).status().unwrap().success());
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
