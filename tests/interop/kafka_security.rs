//! Bridges to a Kafka cluster that lets in whom it knows: tansu, behind a door that asks for a
//! password, SCRAM or a token, over TLS, with implementations that are not the client's.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{Near, Tansu, publish};
use crate::support::{eventually, unique};

/// The door before a broker; ended with the value.
struct Door {
    child: Child,
    servers: String,
    tokens: String,
    lines: Arc<Mutex<Vec<String>>>,
    _tansu: Tansu, // it ends with the door
    topic: String,
}

impl Door {
    /// The broker tells clients that it is reached by the door.
    fn open(settings: &Value) -> Door {
        let port = Tansu::free_address().port();
        let tansu = Tansu::told_as(Some(port));
        let topic = unique("t");
        tansu.create(&topic, 2);
        let to = tansu.address.port().to_string();
        let (port, settings) = (port.to_string(), settings.to_string());
        let mut command = crate::script_of_python("kafka_door.py", &[&port, &to, &settings]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a door");
        let mut said = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut number = || said.next().expect("a line").expect("text");
        let (door, tokens) = (number(), number());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in said.map_while(Result::ok) {
                kept.lock().expect("lines").push(line);
            }
        });
        let servers = format!("'127.0.0.1:{door}'");
        Door { child, servers, tokens, lines, _tansu: tansu, topic }
    }

    fn said(&self, beginning: &str) -> usize {
        let lines = self.lines.lock().expect("lines");
        lines.iter().filter(|line| line.starts_with(beginning)).count()
    }

    /// A bridge through the door; `keys`: further keys of its section.
    fn bridge(&self, keys: &str) -> Near {
        let route = format!("{{filter: 'dev/#', topic: {}}}", self.topic);
        Near::start(&self.servers, &route, &format!(", linger: 1ms, {keys}"), "")
    }

    /// Messages go through the door, as the user that it knows.
    fn lets_in(&self, keys: &str, user: &str) -> Near {
        let before = self.said("in ");
        let near = self.bridge(keys);
        let mut clients = near.clients(1);
        publish(&mut clients, 0..10);
        eventually("all arrive", || near.metric("delivered_total") == 10.0);
        assert_eq!(near.metric("up"), 1.0);
        let lines = self.lines.lock().expect("lines").clone();
        let new: Vec<_> =
            lines.iter().filter(|line| line.starts_with("in ")).skip(before).collect();
        assert!(new.iter().all(|line| line.contains(user)) && !new.is_empty(), "{new:?}");
        near
    }

    /// Nobody is let in; the log says why, and has no secret.
    fn turns_away(&self, keys: &str, why: &str) -> Near {
        let near = self.bridge(keys);
        let mut clients = near.clients(1);
        publish(&mut clients, 0..1);
        eventually(why, || near.broker.log().contains(why));
        assert_eq!((near.metric("up"), near.metric("delivered_total")), (0.0, 0.0));
        assert!(!near.broker.log().contains("hush"), "{}", near.broker.log());
        near
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn users() -> Value {
    json!({"site-7": "hush, hush"})
}

fn sasl(mechanism: &str, password: &str) -> String {
    format!("sasl: {{mechanism: {mechanism}, username: site-7, password: '{password}'}}")
}

/// Also in a program without TLS.
#[test]
fn kafka_asks_for_a_password() {
    let door = Door::open(&json!({"mechanisms": ["PLAIN"], "users": users()}));
    door.lets_in(&sasl("plain", "hush, hush"), "in PLAIN site-7 plain");
    door.turns_away(&sasl("plain", "hush"), "wrong password");
}

#[cfg(feature = "kafka-tls")]
mod with_tls {
    use super::*;
    use crate::support::broker::run;
    use std::fs;
    use std::path::PathBuf;

    /// A directory with certificates; removed with the value.
    struct Files(PathBuf);

    impl Files {
        fn new() -> Files {
            let directory = std::env::temp_dir().join(unique("ringmq-kafka-files"));
            fs::create_dir(&directory).expect("a directory");
            Files(directory)
        }

        fn write(&self, name: &str, text: &str) -> String {
            let path = self.0.join(name);
            fs::write(&path, text).expect("a file");
            path.to_str().expect("a plain path").to_owned()
        }

        /// A certificate for that name, which is its own authority, and its key.
        fn certificate(&self, file: &str, name: &str) -> (String, String) {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]);
            let made = made.expect("a certificate");
            let certificate = self.write(&format!("{file}.crt"), &made.cert.pem());
            (certificate, self.write(&format!("{file}.key"), &made.signing_key.serialize_pem()))
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn kafka_asks_for_scram_over_tls() {
        let files = Files::new();
        let (certificate, key) = files.certificate("door", "127.0.0.1");
        let door = Door::open(&json!({
            "mechanisms": ["SCRAM-SHA-256", "SCRAM-SHA-512"], "users": users(),
            "certificate": certificate, "key": key,
        }));
        let tls = format!("tls: {{ca: {certificate}}}, ");
        for (mechanism, said) in [
            ("scram_sha256", "in SCRAM-SHA-256 site-7"),
            ("scram_sha512", "in SCRAM-SHA-512 site-7"),
        ] {
            let near = door.lets_in(&format!("{tls}{}", sasl(mechanism, "hush, hush")), said);
            drop(near);
        }
        door.turns_away(&format!("{tls}{}", sasl("scram_sha512", "hush")), "SASL");
        door.turns_away(&format!("{tls}{}", sasl("plain", "hush, hush")), "SASL mechanism");
        let (other, _) = files.certificate("other", "127.0.0.1");
        let unknown = format!("tls: {{ca: {other}}}, {}", sasl("scram_sha256", "hush, hush"));
        door.turns_away(&unknown, "certificate verify failed");
    }

    #[test]
    fn kafka_brokers_and_their_clients_show_certificates() {
        let files = Files::new();
        let (certificate, key) = files.certificate("door", "kafka.example");
        let (own, own_key) = files.certificate("own", "site-7");
        let door = Door::open(&json!({
            "mechanisms": ["PLAIN"], "users": users(),
            "certificate": certificate, "key": key, "clients_ca": own,
        }));
        let sasl = sasl("plain", "hush, hush");
        let own = format!("certificate: {own}, private_key: {own_key}");
        let unnamed = format!("tls: {{ca: {certificate}, verify_name: false, {own}}}, {sasl}");
        door.lets_in(&unnamed, "in PLAIN site-7 TLSv1.3");
        let named = format!("tls: {{ca: {certificate}, {own}}}, {sasl}");
        door.turns_away(&named, "certificate verify failed");
        let nameless = format!("tls: {{ca: {certificate}, verify_name: false}}, {sasl}");
        door.turns_away(&nameless, "trouble with the Kafka cluster");
        eventually("it asks for one", || {
            let lines = door.lines.lock().expect("lines");
            lines.iter().any(|line| line.contains("PEER_DID_NOT_RETURN_A_CERTIFICATE"))
        });
    }

    /// A refused token is asked for again, and one that is renewed in its file is shown then:
    /// without a reload.
    #[test]
    fn kafka_asks_for_a_token_of_a_file() {
        let files = Files::new();
        let (certificate, key) = files.certificate("door", "127.0.0.1");
        let tokens = files.write("known", "second-hush\n");
        let door = Door::open(&json!({
            "mechanisms": ["OAUTHBEARER"], "certificate": certificate, "key": key, "tokens": tokens,
        }));
        let file = files.write("token", "first-hush\n");
        let keys = |file: &str| {
            format!(
                "tls: {{ca: {certificate}}}, sasl: {{mechanism: oauth_bearer, token_file: {file}}}"
            )
        };
        let near = door.turns_away(&keys(&file), "unknown token");
        fs::write(&file, "second-hush\n").expect("written");
        eventually("it arrives", || near.metric("delivered_total") == 1.0);
        assert_eq!(near.metric("up"), 1.0);
        assert!(!near.broker.log().contains("second-hush"), "{}", near.broker.log());
        door.lets_in(&keys(&file), "in OAUTHBEARER token");
        let missing = files.0.join("missing");
        door.turns_away(&keys(missing.to_str().expect("plain")), "No such file");
    }

    /// Tokens of an OAuth 2.0 service, which end soon: another one is fetched in time.
    #[test]
    fn kafka_asks_for_a_token_of_a_service() {
        let files = Files::new();
        let (certificate, key) = files.certificate("door", "127.0.0.1");
        let door = Door::open(&json!({
            "mechanisms": ["OAUTHBEARER"], "certificate": certificate, "key": key, "seconds": 4,
            "clients": {"site 7:a": "hush+%hush"},
        }));
        let keys = |secret: &str| {
            let url = format!("https://127.0.0.1:{}/token", door.tokens);
            format!(
                "tls: {{ca: {certificate}}}, sasl: {{mechanism: oauth_bearer, token_endpoint: \
                 {{url: '{url}', client_id: 'site 7:a', client_secret: '{secret}', \
                 scope: kafka write, ca: {certificate}}}}}"
            )
        };
        let near = door.lets_in(&keys("hush+%hush"), "in OAUTHBEARER token");
        eventually("another one is fetched", || door.said("gave site 7:a") >= 2);
        assert_eq!(near.metric("up"), 1.0);
        drop(near);
        door.turns_away(&keys("hush"), "the token endpoint answers 401 invalid_client");
    }

    /// What is wrong with the files is said at the start, with the key.
    #[test]
    fn files_for_kafka_are_read_at_the_start() {
        let files = Files::new();
        let empty = files.write("empty", "");
        let (own, _) = files.certificate("own", "site-7");
        for (keys, expected) in [
            (format!("tls: {{ca: {empty}}}"), "bridges.0.kafka.tls.ca: "),
            (
                format!("tls: {{certificate: {own}, private_key: {empty}}}"),
                "bridges.0.kafka.tls.private_key: ",
            ),
            (
                format!(
                    "sasl: {{mechanism: oauth_bearer, token_endpoint: {{client_id: c, \
                     url: 'https://a.example/t', ca: {empty}}}}}"
                ),
                "bridges.0.kafka.sasl.token_endpoint.ca: ",
            ),
        ] {
            let text = format!(
                "listeners: [{{bind: '127.0.0.1:0'}}]\nbridges: [{{name: a, kafka: {{servers: \
                 ['127.0.0.1:9'], routes: [{{filter: a, topic: t}}], {keys}}}}}]\n"
            );
            let file = files.write("near.yaml", &text);
            let said = refused(&file);
            assert!(said.contains(expected), "{keys}: {said}");
        }
    }

    /// What a broker says that does not start.
    fn refused(file: &str) -> String {
        let exit = run(&["--config", file]);
        assert_ne!(exit.code, Some(0));
        format!("{}{}", exit.stdout, exit.stderr)
    }
}
