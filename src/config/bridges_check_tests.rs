use crate::config::Sources;

/// The problems of a file that has these bridges from its second line on.
fn problems(bridges: &str) -> Vec<String> {
    let text = format!("bridges:\n{bridges}");
    match Sources::default().load_from("f.yaml", text.as_bytes()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.0.iter().map(ToString::to_string).collect(),
    }
}

const MQTT: &str = "addresses: ['h:1'], topics: [{filter: a}]";

#[test]
fn what_is_wrong_with_a_bridge_is_said_with_its_line_and_key() {
    for (bridge, expected) in [
        ("- {name: a}", "f.yaml:2: bridges.0: it does not say what is at its other end; write"),
        (
            "- {name: a, mqtt: {MQTT, start: once}, buffer: {on_full: pause}}",
            "f.yaml:2: bridges.0.buffer.on_full: with start: once, publishers would wait for ever",
        ),
        (
            "- {name: a, mqtt: {MQTT, start: once}, puback: delivered}",
            "f.yaml:2: bridges.0.puback: with start: once, publishers would wait for ever",
        ),
        (
            "- {name: a, mqtt: {MQTT, start: lazy}, puback: delivered}",
            "f.yaml:2: bridges.0.puback: publishers would wait until others' messages have",
        ),
        (
            "- {name: a, mqtt: {MQTT}, puback_timeout: 5s}",
            "f.yaml:2: bridges.0.puback_timeout: nobody waits for the other end; set puback",
        ),
        (
            "- {name: a, mqtt: {MQTT, connections: 2, start: lazy}}",
            "f.yaml:2: bridges.0.mqtt.connections: several connections are always there; set",
        ),
        (
            "- {name: a, mqtt: {addresses: ['h:1'], topics: [{filter: a, direction: in}], \
             protocol_version: v311, connections: 2}}",
            "f.yaml:2: bridges.0.mqtt.connections: with MQTT 3.1.1, what one connection has sent",
        ),
        (
            "- {name: a, mqtt: {MQTT, connections: 2}, \
             buffer: {mode: disk, path: /d, segment: 1MiB, max_bytes: 3MiB}}",
            "f.yaml:2: bridges.0.buffer.max_bytes: it is less than two segments for each",
        ),
        ("- {mqtt: {MQTT}}", "f.yaml:2: bridges.0.name: the bridge has no name that can stand"),
        ("- {name: a/b, mqtt: {MQTT}}", "f.yaml:2: bridges.0.name: the bridge has no name"),
        (
            "- {name: '..', mqtt: {MQTT}}",
            "f.yaml:2: bridges.0.name: this is no name of a directory",
        ),
        ("- {name: ., mqtt: {MQTT}}", "f.yaml:2: bridges.0.name: this is no name of a directory"),
        (
            "- {name: a, mqtt: {MQTT}, buffer: {mode: disk, path: /d}}\n\
             - {name: b, mqtt: {MQTT}, buffer: {mode: hybrid, path: /d/}}",
            "f.yaml:3: bridges.1.buffer.path: /d/ is in use by bridges.0; give each bridge a",
        ),
        (
            "- {name: a, mqtt: {MQTT}}\n- {name: a, mqtt: {MQTT}}",
            "f.yaml:3: bridges.1.name: bridges.0 is also called `a`; give each",
        ),
        (
            "- {name: a, mqtt: {addresses: ['h'], topics: [{filter: a}]}}",
            "f.yaml:2: bridges.0.mqtt.addresses.0: `h` is no address with a port; write one",
        ),
        (
            "- {name: a, mqtt: {addresses: ['h:1'], topics: []}}",
            "f.yaml:2: bridges.0.mqtt.topics: nothing would go over the bridge; add an element",
        ),
        (
            "- {name: a, mqtt: {addresses: ['h:1'], topics: [{filter: 'a/#/b'}]}}",
            "f.yaml:2: bridges.0.mqtt.topics.0.filter: with its prefix `a/#/b` is no topic",
        ),
        (
            "- {name: a, mqtt: {addresses: ['h:1'], topics: [{local_prefix: a}]}}",
            "f.yaml:2: bridges.0.mqtt.topics.0: with an empty filter local_prefix and",
        ),
        (
            "- {name: a, mqtt: {addresses: ['h:1'], topics: [{filter: a, remote_prefix: '+/'}]}}",
            "f.yaml:2: bridges.0.mqtt.topics.0.remote_prefix: a prefix has no + or #; put",
        ),
        (
            "- {name: a, mqtt: {MQTT, retry: {min: 10s, max: 5s}}}",
            "f.yaml:2: bridges.0.mqtt.retry.max: it is shorter than min; raise it, or lower min",
        ),
        (
            "- {name: a, mqtt: {MQTT, on_refused: drop, protocol_version: v311}}",
            "f.yaml:2: bridges.0.mqtt.on_refused: MQTT 3.1.1 has no reason codes: nothing is",
        ),
        (
            "- {name: a, mqtt: {MQTT, tls: {certificate: c}}}",
            "f.yaml:2: bridges.0.mqtt.tls: certificate and private_key come together; set both",
        ),
        (
            "- {name: a, mqtt: {MQTT}, buffer: {mode: disk}}",
            "f.yaml:2: bridges.0.buffer.mode: there is no directory for what waits on disk; set",
        ),
        (
            "- {name: a, mqtt: {MQTT}, buffer: {segment: 1MiB}}",
            "f.yaml:2: bridges.0.buffer.segment: nothing waits on disk; set mode: hybrid",
        ),
        (
            "- {name: a, mqtt: {MQTT}, buffer: {mode: disk, path: p, max_bytes: 1MiB}}",
            "f.yaml:2: bridges.0.buffer.max_bytes: it is less than two segments; raise it",
        ),
        (
            "- {name: a, mqtt: {MQTT}, http: {url: 'http://h', filters: a}}",
            "f.yaml:2: bridges.0: it has several other ends; make a bridge of each",
        ),
        (
            "- {name: a, http: {url: 'http://${topic}/x', filters: a}}",
            "f.yaml:2: bridges.0.http.url: a message would choose which host is asked; keep",
        ),
        (
            "- {name: a, http: {url: 'ftp://h', filters: a}}",
            "f.yaml:2: bridges.0.http.url: this is no http or https URL; write one such as",
        ),
        (
            "- {name: a, http: {url: 'http://h/${nothing}', filters: a}}",
            "f.yaml:2: bridges.0.http.url: there is no placeholder ${nothing}; see",
        ),
        (
            "- {name: a, http: {url: 'http://h', filters: a, body: {x: '${topic'}}}",
            "f.yaml:2: bridges.0.http.body.x: a placeholder is not closed with }; see",
        ),
        (
            "- {name: a, http: {url: 'http://h', filters: 'a/#/b'}}",
            "f.yaml:2: bridges.0.http.filters.0: `a/#/b` is no topic filter; see section 4.7",
        ),
        (
            "- {name: a, http: {url: 'http://h', filters: a, format: payload, batch: 2}}",
            "f.yaml:2: bridges.0.http.format: a body that is one payload has neither fields",
        ),
    ] {
        let text = bridge.replace("MQTT", MQTT);
        let found = problems(&text);
        let first = found.first().map_or("", String::as_str);
        assert!(first.starts_with(expected), "{text}\n  found    {found:?}\n  expected {expected}");
    }
    assert_eq!(problems(&format!("- {{name: a, mqtt: {{{MQTT}}}}}")), Vec::<String>::new());
}

#[cfg(not(feature = "kafka"))]
#[test]
fn a_program_without_kafka_says_so() {
    let found = problems("- {name: a, kafka: {servers: ['a:1'], routes: [{filter: a, topic: t}]}}");
    assert_eq!(
        found,
        ["f.yaml:2: bridges.0.kafka: this program was built without kafka; build it with that \
          feature, or remove the key"]
    );
}

#[cfg(feature = "kafka")]
#[test]
fn what_is_wrong_with_a_bridge_to_kafka_is_said() {
    for (kafka, expected) in [
        ("servers: [a], ROUTE", "servers.0: `a` is no address with a port; write one such as"),
        ("servers: [], ROUTE", "servers: there is no address; write one such as kafka"),
        ("servers: ['a:1']", "routes: nothing would go over the bridge; add an element such"),
        (
            "servers: ['a:1'], routes: [{filter: 'a/#/b', topic: t}]",
            "routes.0.filter: `a/#/b` is no topic filter; see section 4.7",
        ),
        (
            "servers: ['a:1'], routes: [{filter: a, topic: 'a/b'}]",
            "routes.0.topic: `a/b` is no Kafka topic; write at most 249 letters",
        ),
        (
            "servers: ['a:1'], routes: [{filter: a, topic: t, key: '${nothing}'}]",
            "routes.0.key: there is no placeholder ${nothing}; see",
        ),
        (
            "servers: ['a:1'], ROUTE, acks: 1, idempotence: true",
            "idempotence: a record that not all replicas have can be lost, or be there",
        ),
        (
            "servers: ['a:1'], ROUTE, properties: {linger.ms: 5}",
            "properties.linger.ms: it has a key of its own; write bridges.0.kafka.linger",
        ),
        (
            "servers: ['a:1'], ROUTE, properties: {log.queue: true}",
            "properties.log.queue: what the bridge promises depends on it; remove it",
        ),
        (
            "servers: ['a:1'], ROUTE, properties: {no.such: 5}",
            "properties.no.such: No such configuration property: \"no.such\"; see",
        ),
        (
            "servers: ['a:1'], ROUTE, sasl: {password: x}",
            "sasl.username: there is no user name; set it, or remove sasl",
        ),
        (
            "servers: ['a:1'], ROUTE, properties: {sasl.oauthbearer.method: oidc}",
            "properties.sasl.oauthbearer.method: it has a key of its own; write bridges.0.kafka",
        ),
        (
            "servers: ['a:1'], ROUTE, sasl: {username: u, token_file: t}",
            "sasl.token_file: the mechanism does not use it; remove it, or",
        ),
        #[cfg(feature = "kafka-tls")]
        (
            "servers: ['a:1'], ROUTE, sasl: {mechanism: oauth_bearer}",
            "sasl.mechanism: nothing says where the token is; set token_file or",
        ),
        #[cfg(feature = "kafka-tls")]
        (
            "servers: ['a:1'], ROUTE, sasl: {mechanism: oauth_bearer, token_file: t, username: u}",
            "sasl.username: the mechanism does not use it; remove it, or",
        ),
        #[cfg(feature = "kafka-tls")]
        (
            "servers: ['a:1'], ROUTE, sasl: {mechanism: oauth_bearer, token_endpoint: \
             {url: 'http://a.example/t', client_id: c}}",
            "sasl.token_endpoint.url: the secret would go over the network as it is; write an",
        ),
        #[cfg(not(feature = "kafka-tls"))]
        (
            "servers: ['a:1'], ROUTE, tls: {}",
            "tls: this program was built without kafka-tls; build it with that feature, or",
        ),
        (
            "servers: ['a:1'], ROUTE, retry: {min: 10s, max: 5s}",
            "retry.max: it is shorter than min; raise it, or lower min",
        ),
    ] {
        let kafka = kafka.replace("ROUTE", "routes: [{filter: a, topic: t}]");
        let found = problems(&format!("- {{name: a, kafka: {{{kafka}}}}}"));
        let first = found.first().map_or("", String::as_str);
        let expected = format!("f.yaml:2: bridges.0.kafka.{expected}");
        assert!(first.starts_with(&expected), "{kafka}\n  found    {found:?}\n  {expected}");
    }
    for whole in
        ["acks: 1", "acks: all, idempotence: true", "properties: {socket.timeout.ms: 5000}"]
    {
        let kafka = format!("servers: ['a:1'], routes: [{{filter: a, topic: t}}], {whole}");
        let found = problems(&format!("- {{name: a, kafka: {{{kafka}}}}}"));
        assert_eq!(found, Vec::<String>::new());
    }
}
