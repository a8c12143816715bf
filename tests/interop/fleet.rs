//! Nodes of a cluster and their NATS servers, as processes.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::nodes::nats_server;
use crate::support::{Broker, Client, Connect, Subscribe, V5, eventually, unique};

/// A NATS server that can be killed and started again on its port.
pub struct Server {
    child: Option<Child>,
    pub address: SocketAddr,
    file: Option<String>,
}

/// An address of this host that nobody has.
fn free_address() -> SocketAddr {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    free.local_addr().expect("it has an address")
}

impl Server {
    fn start() -> Server {
        Server::start_with(None)
    }

    /// Three that are one engine, with the settings of `tuning/nats-server.conf` for servers that
    /// hang.
    fn start_three(directory: &Path) -> Vec<Server> {
        let routes = [(); 3].map(|()| free_address());
        let urls = routes.map(|route| format!("\"nats://{route}\""));
        let start = |route: SocketAddr| {
            let file = directory.join(format!("nats-{}.conf", route.port()));
            let text = format!(
                "ping_interval: \"1s\"\nping_max: 2\nwrite_deadline: \"2s\"\n\
                 cluster {{ name: engine, listen: \"{route}\", routes: [{}] }}\n",
                urls.join(", ")
            );
            fs::write(&file, text).expect("its file");
            Server::start_with(Some(file.to_str().expect("a plain path").to_owned()))
        };
        routes.map(start).into()
    }

    /// With a configuration file.
    pub fn start_with(file: Option<String>) -> Server {
        let mut server = Server { child: None, address: free_address(), file };
        server.run();
        server
    }

    pub fn run(&mut self) {
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let child = Command::new(nats_server())
            .args(["-a", &host, "-p", &port])
            .args(self.file.iter().flat_map(|file| ["-c", file]))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server is installed: run scripts/test");
        self.child = Some(child);
        eventually("the NATS server listens", || TcpStream::connect(self.address).is_ok());
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill runs").success());
    }

    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }
}

/// A way between two servers that can be shut: what has been sent on it by then is held, and who
/// connects is not answered. When it opens again, connections of before end.
pub struct Relay {
    pub address: SocketAddr,
    is_shut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    fn start(to: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        let relay = Relay { address, is_shut: Arc::default(), open: Arc::default() };
        let (is_shut, open) = (relay.is_shut.clone(), relay.open.clone());
        // It waits for connections until the test's process ends.
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(to) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let clone = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
                    let (from, to, is_shut) = (clone(from), clone(to), is_shut.clone());
                    std::thread::spawn(move || copy(from, to, &is_shut));
                }
                open.lock().expect("nobody panics with it").extend([near, far]);
            }
        });
        relay
    }

    pub fn shut(&self, shut: bool) {
        if !shut {
            for stream in self.open.lock().expect("nobody panics with it").drain(..) {
                // Its other end may be gone.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.is_shut.store(shut, Ordering::Relaxed);
    }
}

/// Passes on what comes until one end is closed.
fn copy(mut from: TcpStream, mut to: TcpStream, is_shut: &AtomicBool) {
    let mut bytes = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        while is_shut.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A directory for the files of some nodes.
fn directory() -> PathBuf {
    let directory = std::env::temp_dir().join(unique("ringmq-nodes"));
    fs::create_dir(&directory).expect("a directory");
    directory
}

/// Nodes of one cluster, in a directory of their own.
pub struct Nodes {
    pub servers: Vec<Server>,
    pub nodes: Vec<Broker>,
    pub directory: PathBuf,
    /// The cluster's name.
    pub name: String,
    /// Further keys of `cluster`, and further lines of their configuration.
    keys: String,
    more: String,
    /// Each node knows the server with its number only.
    is_apart: bool,
}

impl Nodes {
    /// So many, with further lines of their configuration, and one server.
    pub fn start(count: usize, more: &str) -> Nodes {
        Nodes::begin(vec![Server::start()], directory(), count, ("", more))
    }

    /// The same with these further keys of `cluster`.
    pub fn start_with(count: usize, keys: &str) -> Nodes {
        Nodes::begin(vec![Server::start()], directory(), count, (keys, ""))
    }

    /// The same with three servers, of which each node uses another one.
    pub fn start_with_three(count: usize) -> Nodes {
        let directory = directory();
        Nodes::begin(Server::start_three(&directory), directory, count, ("", ""))
    }

    /// Two nodes, each with a server of its own; between the servers there is a way that can be
    /// shut.
    pub fn start_apart() -> (Nodes, Relay) {
        let directory = directory();
        let routes = [(); 2].map(|()| free_address());
        let relay = Relay::start(routes[1]);
        let start = |at: usize| {
            let file = directory.join(format!("nats-{at}.conf"));
            let others =
                if at == 0 { format!("\"nats://{}\"", relay.address) } else { String::new() };
            let text = format!(
                "ping_interval: \"1s\"\nping_max: 2\nwrite_deadline: \"2s\"\n\
                 cluster {{ name: engine, listen: \"{}\", routes: [{others}] }}\n",
                routes[at]
            );
            fs::write(&file, text).expect("its file");
            Server::start_with(Some(file.to_str().expect("a plain path").to_owned()))
        };
        let mut nodes = Nodes {
            servers: vec![start(1), start(0)],
            nodes: Vec::new(),
            directory,
            name: unique("fleet"),
            keys: String::new(),
            more: String::new(),
            is_apart: true,
        };
        (0..2).for_each(|_| nodes.join());
        nodes.meet();
        (nodes, relay)
    }

    fn begin(
        servers: Vec<Server>,
        directory: PathBuf,
        count: usize,
        (keys, more): (&str, &str),
    ) -> Nodes {
        let (name, keys, more) = (unique("fleet"), keys.to_owned(), more.to_owned());
        let nodes = Vec::new();
        let mut nodes = Nodes { servers, nodes, directory, name, keys, more, is_apart: false };
        (0..count).for_each(|_| nodes.join());
        nodes.meet();
        nodes
    }

    /// A further node.
    pub fn join(&mut self) {
        let number = self.nodes.len();
        let mut servers: Vec<String> =
            self.servers.iter().map(|server| format!("'nats://{}'", server.address)).collect();
        let first = number % servers.len();
        servers.rotate_left(first);
        servers.truncate(if self.is_apart { 1 } else { servers.len() });
        let text = format!(
            "listeners: [{{bind: '127.0.0.1:0'}}]\nadmin: {{bind: '127.0.0.1:0'}}\n\
             mqtt: {{pending: {{max_messages: 100000, max_bytes: 64MiB}}}}\n\
             cluster: {{name: {}, node: node-{number}, nats: {{servers: [{}]}}{}}}\n{}",
            self.name,
            servers.join(", "),
            self.keys,
            self.more
        );
        fs::write(self.directory.join(format!("{number}.yaml")), text).expect("its file");
        let node = self.process(number);
        self.nodes.push(node);
    }

    fn process(&self, at: usize) -> Broker {
        let file = self.directory.join(format!("{at}.yaml"));
        Broker::of_file(file.to_str().expect("a plain path"))
    }

    /// Starts a node that has ended again.
    pub fn restart(&mut self, at: usize) {
        self.nodes[at] = self.process(at);
    }

    /// Waits until all nodes know each other.
    pub fn meet(&self) {
        for at in 0..self.nodes.len() {
            eventually("the nodes know each other", || self.settled(at) == self.nodes.len() - 1);
        }
    }

    /// How often nodes have said that another one is down.
    pub fn divisions(&self) -> usize {
        let said = |node: &Broker| node.log().matches("cluster: a node is down").count();
        self.nodes.iter().map(said).sum()
    }

    /// How many others a node knows, and is known by.
    pub fn settled(&self, at: usize) -> usize {
        let others = (0..self.nodes.len()).filter(|&other| other != at);
        let settled = |other: &usize| self.of_node(at, "settled", *other) == 1.0;
        others.filter(settled).count()
    }

    /// A figure that node `at` has of another node.
    pub fn of_node(&self, at: usize, name: &str, other: usize) -> f64 {
        let label = format!("node=\"node-{other}\"");
        // One that is not known has none.
        self.nodes[at].find_metric(&format!("ringmq_cluster_node_{name}"), &label).unwrap_or(-1.0)
    }

    pub fn figure(&self, at: usize, name: &str) -> f64 {
        self.nodes[at].metric(&format!("ringmq_cluster_{name}"), "")
    }

    /// A client of node `at` with a subscription that the others know of.
    pub fn subscriber(&self, at: usize, filter: &str, qos: u8) -> Client {
        let others = || (0..self.nodes.len()).filter(|&other| other != at);
        let known: Vec<f64> = others().map(|other| self.of_node(other, "filters", at)).collect();
        let (mut client, _) = Connect::new(V5, unique("reader")).open_with(&self.nodes[at]);
        client.subscribe(Subscribe::to(filter, qos));
        for (other, before) in others().zip(known) {
            let more = before.max(0.0) + 1.0;
            eventually("the filter is known", || self.of_node(other, "filters", at) >= more);
        }
        client
    }

    pub fn address(&self, at: usize) -> [String; 4] {
        let address = self.nodes[at].address();
        ["-h".into(), address.ip().to_string(), "-p".into(), address.port().to_string()]
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
