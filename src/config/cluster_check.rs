//! Rules between the keys of `cluster:`. Owns nothing.

use super::check::Findings;
use super::sections::Config;
use crate::cluster::frame::is_name;

/// Checks the cluster's keys.
pub(super) fn check(config: &Config, report: &mut Findings<'_>) {
    let cluster = &config.cluster;
    let name = "write 1 to 64 letters, digits, - and _";
    if !cluster.name.is_empty() && !is_name(&cluster.name) {
        report.add("cluster.name", "this cannot stand in a subject of NATS", name);
    }
    if let Some(node) = &cluster.node.0
        && !is_name(node)
    {
        report.add("cluster.node", "this cannot stand in a subject of NATS", name);
    }
    if cluster.durable {
        let what = "sessions that survive the loss of a node are not in this build";
        report.add("cluster.durable", what, "set false; storage.path keeps them on their node");
    }
    if cluster.nats.servers.is_empty() {
        let fix = "write one such as nats://127.0.0.1:4222";
        report.add("cluster.nats.servers", "there is no server", fix);
    }
    for (at, server) in cluster.nats.servers.iter().enumerate() {
        if !is_server(server) {
            let fix = "write one such as nats://127.0.0.1:4222 or tls://nats.example:4222";
            report.add(&format!("cluster.nats.servers.{at}"), "this is no URL of NATS", fix);
        }
    }
    if !cluster.nats.credentials.is_empty() && !cluster.nats.nkey.is_empty() {
        let what = "credentials and nkey are two ways to say who this node is";
        report.add("cluster.nats.nkey", what, "remove one of them");
    }
    if let Some(tls) = cluster.nats.tls.as_ref()
        && tls.certificate.is_empty() != tls.private_key.is_empty()
    {
        let what = "certificate and private_key come together";
        report.add("cluster.nats.tls", what, "set both, or neither");
    }
}

fn is_server(text: &str) -> bool {
    let rest = text.strip_prefix("nats://").or_else(|| text.strip_prefix("tls://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', ' ']))
}

#[cfg(test)]
mod tests {
    use super::is_server;

    #[test]
    fn servers_are_urls_of_nats() {
        for url in ["nats://a", "nats://user:pass@a:4222", "tls://[::1]:4222"] {
            assert!(is_server(url), "{url}");
        }
        for url in ["", "a:4222", "nats://", "http://a", "nats://a/b", "nats://a b"] {
            assert!(!is_server(url), "{url}");
        }
    }
}
