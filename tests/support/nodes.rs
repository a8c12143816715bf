//! `RINGMQ_TEST_NODES=3`: a broker that tests share is so many nodes of a cluster, and each
//! connection goes to one of them. They are over a nats-server, which has to be installed
//! (`scripts/test interop`). Brokers of a test's own stay alone.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::broker::{Broker, Leash};
use super::{eventually, unique};

/// How many nodes a shared broker has.
pub fn count() -> usize {
    let text = std::env::var("RINGMQ_TEST_NODES").unwrap_or_else(|_| "1".into());
    text.parse().expect("RINGMQ_TEST_NODES is a number")
}

/// The nats-server that `scripts/test` has installed, or the one of the PATH.
pub fn nats_server() -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/nats-server");
    if installed.exists() { installed } else { PathBuf::from("nats-server") }
}

/// The server of all clusters of this process.
fn server() -> SocketAddr {
    static SERVER: OnceLock<(SocketAddr, Child, Leash)> = OnceLock::new();
    let start = || {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("it has an address");
        drop(free);
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let server = Command::new(nats_server())
            .args(["-a", &host, "-p", &port])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server is installed: run scripts/test interop");
        eventually("the NATS server listens", || TcpStream::connect(address).is_ok());
        // It has no files.
        let leash = Leash::on(server.id(), Path::new("/nonexistent"));
        (address, server, leash)
    };
    SERVER.get_or_init(start).0
}

/// The nodes of one cluster with these settings, which know each other.
pub fn start(count: usize, settings: &[&str]) -> Vec<Broker> {
    let cluster = unique("nodes");
    let start = |number: usize| {
        let mut all: Vec<String> = settings.iter().map(|setting| setting.to_string()).collect();
        if !settings.iter().any(|setting| setting.starts_with("admin.bind=")) {
            all.push("admin.bind=127.0.0.1:0".to_owned());
        }
        all.push(format!("cluster.name={cluster}"));
        all.push(format!("cluster.node=node-{number}"));
        all.push(format!("cluster.nats.servers=[\"nats://{}\"]", server()));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        Broker::start(&all)
    };
    let nodes: Vec<Broker> = (0..count).map(start).collect();
    for node in &nodes {
        eventually("the nodes know each other", || {
            let settled = node.find_metric("ringmq_cluster_node_settled", "");
            settled.is_ok_and(|settled| settled == (count - 1) as f64)
        });
    }
    nodes
}

/// A number below `count`: another one each time, in no order that a test could know.
pub fn any(count: usize) -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) as u64;
    let mixed = (number + u64::from(std::process::id())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 33) % count as u64) as usize
}
