//! Nodes of a cluster whose NATS server lets nobody in whom it does not know: they meet with the
//! right password, key or credentials, and a node with wrong ones says so and goes on alone.

use std::fs;
use std::path::PathBuf;

use crate::fleet::Server;
use crate::support::{Broker, Client, Publish, Subscribe, V5, eventually, unique};

/// A directory for the files of one test.
struct Files(PathBuf);

impl Files {
    fn new() -> Files {
        let directory = std::env::temp_dir().join(unique("ringmq-nats"));
        fs::create_dir(&directory).expect("a directory");
        Files(directory)
    }

    /// Writes a file; its path.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a file");
        path.to_str().expect("a plain path").to_owned()
    }

    /// A node of that cluster; `nats` is what its configuration says of NATS.
    fn node(&self, cluster: &str, nats: &str) -> Broker {
        let text = format!(
            "listeners: [{{bind: '127.0.0.1:0'}}]\nadmin: {{bind: '127.0.0.1:0'}}\n\
             cluster: {{name: {cluster}, node: {}, nats: {{{nats}}}}}\n",
            unique("node")
        );
        Broker::of_file(&self.file(&unique("node"), &text))
    }

    /// Two nodes become one broker.
    fn meet(&self, nats: &str) {
        let cluster = unique("fleet");
        let nodes = [self.node(&cluster, nats), self.node(&cluster, nats)];
        for node in &nodes {
            eventually("the nodes know each other", || {
                node.find_metric("ringmq_cluster_node_settled", "").is_ok_and(|value| value == 1.0)
            });
        }
        let mut reader = Client::connect(&nodes[0], V5, &unique("reader"));
        reader.subscribe(Subscribe::to("m", 1));
        let mut writer = Client::connect(&nodes[1], V5, &unique("writer"));
        writer.publish(&Publish::new("m", 1, "over NATS"));
        reader.expect("over NATS");
    }

    /// A node is not taken, says why, and serves clients.
    fn refused(&self, nats: &str, why: &str) {
        let node = self.node(&unique("fleet"), nats);
        let said = || {
            let log = node.log();
            let line = log.lines().find(|line| line.contains("no NATS server takes this node"));
            line.is_some_and(|line| line.contains(why))
        };
        eventually(why, said);
        assert_eq!(node.metric("ringmq_cluster_degraded", ""), 1.0);
        let mut client = Client::connect(&node, V5, &unique("client"));
        client.subscribe(Subscribe::to("m", 1));
        client.publish(&Publish::new("m", 1, "alone"));
        client.expect("alone");
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a server says that does not know who connects.
const UNKNOWN: &str = "authorization violation";

fn key(name: &str) -> String {
    format!("{}/tests/keys/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn nodes_meet_over_tls_with_a_password() {
    let files = Files::new();
    let made = |name: &str| {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]);
        let made = made.expect("a certificate");
        let certificate = files.file(&format!("{name}.crt"), &made.cert.pem());
        (certificate, files.file(&format!("{name}.key"), &made.signing_key.serialize_pem()))
    };
    let ((server_certificate, server_key), (own, own_key)) = (made("server"), made("own"));
    let server = Server::start_with(Some(files.file(
        "nats.conf",
        &format!(
            "authorization {{ user: node, password: \"hush\", timeout: 10 }}\n\
             tls {{ cert_file: \"{server_certificate}\", key_file: \"{server_key}\", \
             ca_file: \"{own}\", verify: true, timeout: 10 }}\n"
        ),
    )));
    let nats = |tls: &str, password: &str| {
        format!(
            "servers: ['tls://{}'], username: node, password: {password}, tls: {{{tls}}}",
            server.address
        )
    };
    let authority = format!("ca: {server_certificate}");
    let certificate = format!("certificate: {own}, private_key: {own_key}");
    let both = format!("{authority}, {certificate}");
    files.meet(&nats(&both, "hush"));
    files.refused(&nats(&both, "wrong"), UNKNOWN);
    files.refused(&nats(&certificate, "hush"), "certificate");
    files.refused(&nats(&authority, "hush"), "no NATS server takes this node");
}

#[test]
fn nodes_meet_with_a_key_that_the_server_knows() {
    let files = Files::new();
    let public = fs::read_to_string(key("nats-user.pub")).expect("a key of the tests");
    let users = format!("authorization {{ users: [{{ nkey: {} }}] }}\n", public.trim());
    let server = Server::start_with(Some(files.file("nats.conf", &users)));
    let nats = |more: &str| format!("servers: ['nats://{}']{more}", server.address);
    files.meet(&nats(&format!(", nkey: {}", key("nats-user.nk"))));
    files.refused(&nats(&format!(", nkey: {}", key("nats-other.nk"))), UNKNOWN);
    files.refused(&nats(""), UNKNOWN);
}

#[test]
fn nodes_meet_with_credentials_of_an_account() {
    let files = Files::new();
    let server = Server::start_with(Some(key("nats-operator.conf")));
    let nats = |more: &str| format!("servers: ['nats://{}']{more}", server.address);
    files.meet(&nats(&format!(", credentials: {}", key("nats-user.creds"))));
    files.refused(&nats(&format!(", nkey: {}", key("nats-user.nk"))), UNKNOWN);
}
