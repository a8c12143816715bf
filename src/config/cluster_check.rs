//! The rules that relate the keys of `cluster:`. Owns nothing.

use super::check::Findings;
use super::sections::{Config, Durability, StorageFailure};
use crate::cluster::frame::is_name;

/// Checks the keys of the cluster.
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
        check_durable(config, report);
    }
    if cluster.nats.servers.is_empty() {
        let fix = "write one such as nats://127.0.0.1:4222";
        report.add("cluster.nats.servers", "there is no server", fix);
    }
    for (at, server) in cluster.nats.servers.iter().enumerate() {
        let key = || format!("cluster.nats.servers.{at}");
        if server.contains('@') {
            let fix = "write them as cluster.nats.username and cluster.nats.password";
            report.add(&key(), "user names and passwords do not stand in URLs here", fix);
        } else if !is_server(server) {
            let fix = "write one such as nats://127.0.0.1:4222 or tls://nats.example:4222";
            report.add(&key(), "this is no URL of NATS", fix);
        }
    }
    let nats = &cluster.nats;
    let ways = [&*nats.credentials, &*nats.nkey, &*nats.username];
    if ways.iter().filter(|way| !way.is_empty()).count() > 1 {
        let what = "credentials, nkey and username are three ways to say who this node is";
        report.add("cluster.nats", what, "keep one of them");
    }
    if nats.username.is_empty() && !nats.password.is_empty() {
        report.add("cluster.nats.password", "there is no user name", "set username, too");
    }
    if let Some(tls) = cluster.nats.tls.as_ref()
        && tls.certificate.is_empty() != tls.private_key.is_empty()
    {
        let what = "certificate and private_key come together";
        report.add("cluster.nats.tls", what, "set both, or neither");
    }
}

/// Checks what `durable` needs of the store.
fn check_durable(config: &Config, report: &mut Findings<'_>) {
    let storage = &config.storage;
    if config.cluster.name.is_empty() {
        report.add("cluster.durable", "this broker is in no cluster", "set cluster.name, too");
    }
    if storage.path.is_empty() {
        let what = "what is not stored here cannot be stored elsewhere";
        report.add("cluster.durable", what, "set storage.path, too");
    }
    if storage.durability == Durability::Async {
        let what = "a power cut may take back what the stream has already";
        report.add("cluster.durable", what, "set storage.durability to sync");
    }
    if storage.on_failure == StorageFailure::Degrade {
        let what = "while the disk fails nothing goes to the stream either";
        report.add("cluster.durable", what, "set storage.on_failure to refuse");
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
        for url in ["nats://a", "nats://a.example:4222", "tls://[::1]:4222"] {
            assert!(is_server(url), "{url}");
        }
        for url in ["", "a:4222", "nats://", "http://a", "nats://a/b", "nats://a b"] {
            assert!(!is_server(url), "{url}");
        }
    }
}
