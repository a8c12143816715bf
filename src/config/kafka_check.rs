//! The rules that relate the keys of `bridges.N.kafka`, and whether this program was built with
//! what they need. Owns nothing.

use super::{Findings, check_filter, check_template, is_address, is_url};
use crate::bridge::kafka::properties::{self, NotYours};
use crate::bridge::kafka::record::is_topic;
use crate::bridge::template::MessageTemplate;
use crate::config::sections::{
    KafkaBridgeConfig, KafkaMechanism, KafkaRoute, KafkaSasl, KafkaTokenEndpoint,
};
use crate::config::value::Get;
use std::net::IpAddr;

/// Checks a bridge to a Kafka cluster.
pub(super) fn check(key: &str, kafka: &KafkaBridgeConfig, report: &mut Findings<'_>) {
    if !cfg!(feature = "kafka") {
        report.add(key, "this program was built without kafka", BUILD);
        return;
    }
    if kafka.servers.is_empty() {
        let fix = "write one such as kafka.example:9092";
        report.add(&format!("{key}.servers"), "there is no address", fix);
    }
    for (at, server) in kafka.servers.iter().enumerate() {
        if !is_address(server) {
            let what = format!("`{server}` is no address with a port");
            let fix = "write one such as kafka.example:9092";
            report.add(&format!("{key}.servers.{at}"), what, fix);
        }
    }
    if kafka.routes.is_empty() && kafka.topics.is_empty() {
        let fix = "add an element such as {filter: \"#\", topic: telemetry}, or topics";
        report.add(&format!("{key}.routes"), "nothing would go over the bridge", fix);
    }
    for (at, route) in kafka.routes.iter().enumerate() {
        check_route(&format!("{key}.routes.{at}"), route, report);
    }
    check_topics(key, kafka, report);
    if kafka.acks.get().is_some() && kafka.idempotence {
        let name = format!("{key}.idempotence");
        if report.is_written(&name) {
            let what = "a record that not all replicas have can be lost, or be there twice";
            report.add(&name, what, "set acks: all, or leave it out");
        }
    }
    if kafka.retry.max.get() < kafka.retry.min.get() {
        let fix = "raise it, or lower min";
        report.add(&format!("{key}.retry.max"), "it is shorter than min", fix);
    }
    check_security(key, kafka, report);
    check_properties(key, kafka, report);
}

const BUILD: &str = "build it with that feature, or remove the key";

fn check_route(key: &str, route: &KafkaRoute, report: &mut Findings<'_>) {
    check_filter(&format!("{key}.filter"), &route.filter, report);
    if route.topic.is_empty() {
        let fix = "write one such as telemetry";
        report.add(&format!("{key}.topic"), "there is no Kafka topic", fix);
    } else if !route.topic.contains("${") && !is_topic(&route.topic) {
        let what = format!("`{}` is no Kafka topic", &*route.topic);
        let fix = "write at most 249 letters, digits, . _ and -";
        report.add(&format!("{key}.topic"), what, fix);
    }
    check_template(&format!("{key}.topic"), &route.topic, report);
    check_template(&format!("{key}.key"), &route.key, report);
    for (name, text) in route.headers.iter() {
        check_template(&format!("{key}.headers.{name}"), text, report);
    }
}

fn check_topics(key: &str, kafka: &KafkaBridgeConfig, report: &mut Findings<'_>) {
    for (at, topic) in kafka.topics.iter().enumerate() {
        let key = format!("{key}.topics.{at}");
        if !is_topic(&topic.topic) {
            let what = format!("`{}` is no Kafka topic", &*topic.topic);
            let fix = "write at most 249 letters, digits, . _ and -";
            report.add(&format!("{key}.topic"), what, fix);
        }
        if kafka.topics.iter().take(at).any(|other| other.topic == topic.topic) {
            let fix = "keep one of them";
            report.add(&format!("{key}.topic"), "another element has it", fix);
        }
        if topic.to.is_empty() {
            let fix = "write one such as \"commands/${key}\"";
            report.add(&format!("{key}.to"), "there is no topic", fix);
        } else if let Err(what) = MessageTemplate::of_record(&topic.to) {
            let fix = "see bridges.N.kafka.topics.N.to in `ringmq config reference`";
            report.add(&format!("{key}.to"), what, fix);
        }
        if topic.partitions.is_empty() != kafka.topics.iter().all(|t| t.partitions.is_empty()) {
            let what = "other topics have partitions";
            report.add(&key, what, "write them here too, or make a bridge of it");
        }
    }
    if !kafka.topics.is_empty() && kafka.group.is_empty() {
        let what = "nobody would remember which records have been accepted";
        report.add(&format!("{key}.group"), what, "write a name of your own");
    }
}

fn check_security(key: &str, kafka: &KafkaBridgeConfig, report: &mut Findings<'_>) {
    if let Some(tls) = &*kafka.tls
        && tls.certificate.is_empty() != tls.private_key.is_empty()
    {
        let what = "certificate and private_key come together";
        report.add(&format!("{key}.tls"), what, "set both, or neither");
    }
    if let Some(missing) = first_unbuilt(kafka, cfg!(feature = "kafka-tls")) {
        let what = "this program was built without kafka-tls";
        report.add(&format!("{key}.{missing}"), what, BUILD);
    }
    if let Some(sasl) = &*kafka.sasl {
        check_sasl(&format!("{key}.sasl"), sasl, report);
    }
}

/// The first key that needs kafka-tls, in a program that was built without.
fn first_unbuilt(kafka: &KafkaBridgeConfig, built: bool) -> Option<&'static str> {
    let hashed = |sasl: &KafkaSasl| sasl.mechanism != KafkaMechanism::Plain;
    match (built, kafka.tls.is_some(), kafka.sasl.as_ref().is_some_and(hashed)) {
        (false, true, _) => Some("tls"),
        (false, false, true) => Some("sasl.mechanism"),
        _ => None,
    }
}

fn check_sasl(key: &str, sasl: &KafkaSasl, report: &mut Findings<'_>) {
    let by_token = sasl.mechanism == KafkaMechanism::OauthBearer;
    let named = [
        ("username", !by_token, !sasl.username.is_empty()),
        ("password", !by_token, !sasl.password.is_empty()),
        ("token_file", by_token, !sasl.token_file.is_empty()),
        ("token_endpoint", by_token, sasl.token_endpoint.is_some()),
    ];
    for (name, used, set) in named {
        if set && !used {
            let fix = "remove it, or choose another mechanism";
            report.add(&format!("{key}.{name}"), "the mechanism does not use it", fix);
        }
    }
    if !by_token && sasl.username.is_empty() {
        let fix = "set it, or remove sasl";
        report.add(&format!("{key}.username"), "there is no user name", fix);
    }
    match (&*sasl.token_endpoint, sasl.token_file.is_empty()) {
        (None, true) if by_token => {
            let fix = "set token_file or token_endpoint";
            report.add(&format!("{key}.mechanism"), "nothing says where the token is", fix);
        }
        (Some(_), false) => {
            let fix = "keep one of them";
            report.add(&format!("{key}.token_file"), "there is a token_endpoint too", fix);
        }
        (Some(endpoint), true) => {
            check_endpoint(&format!("{key}.token_endpoint"), endpoint, report)
        }
        (None, _) => {}
    }
}

fn check_endpoint(key: &str, endpoint: &KafkaTokenEndpoint, report: &mut Findings<'_>) {
    let key_of_url = format!("{key}.url");
    if !is_url(&endpoint.url) {
        let fix = "write one such as https://login.example/oauth2/token";
        report.add(&key_of_url, "this is no http or https URL", fix);
    } else if endpoint.url.starts_with("http:") && !is_at_this_host(&endpoint.url) {
        let what = "the secret would go over the network as it is";
        report.add(&key_of_url, what, "write an https URL");
    }
    if endpoint.client_id.is_empty() {
        let fix = "write this client's name there";
        report.add(&format!("{key}.client_id"), "there is none", fix);
    }
}

/// Whether the host in an http URL is this one.
fn is_at_this_host(url: &str) -> bool {
    let host = url.split(['/', '?']).nth(2).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn check_properties(key: &str, kafka: &KafkaBridgeConfig, report: &mut Findings<'_>) {
    for (name, _) in kafka.properties.iter() {
        let key_of_property = format!("{key}.properties.{name}");
        match properties::of_others(name) {
            Some(NotYours::Key(own)) => {
                let fix = format!("write {key}.{own}");
                report.add(&key_of_property, "it has a key of its own", fix);
            }
            Some(NotYours::Kept) => {
                let what = "what the bridge promises depends on it";
                report.add(&key_of_property, what, "remove it");
            }
            None => {}
        }
    }
    #[cfg(feature = "kafka")]
    if !report.found_below(key)
        && let Err((name, what)) =
            crate::bridge::kafka::client::check(&properties::of_producer(kafka))
    {
        let given = kafka.properties.iter().any(|(own, _)| **own == *name);
        let key = match (given, &*name) {
            (true, _) => format!("{key}.properties.{name}"),
            (false, "compression.codec") => format!("{key}.compression"),
            (false, _) => key.to_owned(),
        };
        report.add(&key, what, "see librdkafka's CONFIGURATION.md");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sections::KafkaTls;
    use crate::config::value::Maybe;

    #[test]
    fn a_build_without_tls_says_which_key_needs_it() {
        let by = |mechanism| Maybe(Some(KafkaSasl { mechanism, ..KafkaSasl::default() }));
        let with = |tls: bool, sasl| KafkaBridgeConfig {
            tls: Maybe(tls.then(KafkaTls::default)),
            sasl,
            ..KafkaBridgeConfig::default()
        };
        for (kafka, expected) in [
            (with(false, Maybe(None)), None),
            (with(false, by(KafkaMechanism::Plain)), None),
            (with(true, by(KafkaMechanism::Plain)), Some("tls")),
            (with(false, by(KafkaMechanism::ScramSha256)), Some("sasl.mechanism")),
            (with(false, by(KafkaMechanism::ScramSha512)), Some("sasl.mechanism")),
            (with(false, by(KafkaMechanism::OauthBearer)), Some("sasl.mechanism")),
        ] {
            assert_eq!(first_unbuilt(&kafka, false), expected);
            assert_eq!(first_unbuilt(&kafka, true), None);
        }
    }

    #[test]
    fn a_secret_goes_in_the_clear_to_this_host_only() {
        for (url, expected) in [
            ("http://localhost/t", true),
            ("http://127.0.0.1:8080/t", true),
            ("http://[::1]:8080/t", true),
            ("http://localhost.example/t", false),
            ("http://10.0.0.1/127.0.0.1", false),
            ("http://127.0.0.1@evil.example/t", false),
        ] {
            assert_eq!(is_at_this_host(url), expected, "{url}");
        }
    }
}
