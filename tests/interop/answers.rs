//! Services that answer: keys of tokens (JWKS), and what clients may do, each up, down, slow,
//! wrong, and changed while the broker runs.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::access::{Directory, HANG, Service, login, publish};
use crate::support::{Broker, Client, Connect, Publish, V5, eventually, unique};

fn key(algorithm: Algorithm) -> EncodingKey {
    let key = match algorithm {
        Algorithm::ES256 => EncodingKey::from_ec_pem(include_bytes!("../keys/ec-private.pem")),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(include_bytes!("../keys/ed-private.pem")),
        _ => EncodingKey::from_rsa_pem(include_bytes!("../keys/rsa-private.pem")),
    };
    key.expect("a key")
}

fn set(keys: &[(&str, Algorithm)]) -> String {
    let key = |(id, algorithm): &(&str, Algorithm)| {
        let jwk = match algorithm {
            // The library reads no public part out of an Ed25519 key: RFC 8037 has it as it is.
            Algorithm::EdDSA => json!({"kty": "OKP", "crv": "Ed25519", "x": ed_point()}),
            _ => {
                let jwk = Jwk::from_encoding_key(&key(*algorithm), *algorithm).expect("a key");
                serde_json::to_value(jwk).expect("it is JSON")
            }
        };
        let mut jwk: Value = jwk;
        jwk["kid"] = json!(id);
        jwk
    };
    json!({"keys": keys.iter().map(key).collect::<Vec<_>>()}).to_string()
}

/// The last 32 bytes of the public key.
fn ed_point() -> String {
    let pem = include_str!("../keys/ed-public.pem");
    let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    use base64::Engine;
    let der = base64::prelude::BASE64_STANDARD.decode(text).expect("base64");
    base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(&der[der.len() - 32..])
}

fn token(id: &str, algorithm: Algorithm) -> String {
    let header = Header { kid: Some(id.to_owned()), ..Header::new(algorithm) };
    encode(&header, &json!({"sub": "c1"}), &key(algorithm)).expect("it can be signed")
}

/// What becomes of a client that shows a token.
fn shows(broker: &Broker, token: &str) -> &'static str {
    let text = publish(broker, &login("ann", token, "a")).1;
    match () {
        () if text.contains("RC:") => "let in",
        () if text.contains("Bad User Name or Password") => "refused",
        () if text.contains("unavailable") => "unavailable",
        () => panic!("{text}"),
    }
}

#[test]
fn keys_of_a_service_are_fetched_and_rotate() {
    let service = Service::start();
    service.says("500 Oops", "");
    let url = format!("http://{}/keys", service.address);
    let chain = format!("access.authentication=[{{jwt: {{jwks: '{url}', timeout: 500ms}}}}]");
    let broker = Broker::start(&[&chain]);
    // No set yet: down, wrong, slow.
    let first = token("1", Algorithm::ES256);
    assert_eq!(shows(&broker, &first), "unavailable");
    service.says("200 OK", "<html>");
    std::thread::sleep(Duration::from_millis(1050)); // it is not asked more often
    assert_eq!(shows(&broker, &first), "unavailable");
    eventually("the log says why", || broker.log().contains("the key set is no JSON"));
    *service.answer.lock().expect("no panic with it") = HANG.to_owned();
    std::thread::sleep(Duration::from_millis(1050));
    assert_eq!(shows(&broker, &first), "unavailable");
    service.says("200 OK", &set(&[("1", Algorithm::ES256)]));
    eventually("the set is fetched", || shows(&broker, &first) == "let in");
    assert_eq!(shows(&broker, &token("1", Algorithm::RS256)), "refused", "a key of another kind");
    assert_eq!(shows(&broker, "no token"), "refused");
    // A new key is fetched early, with the first token that names it.
    let keys = [("2", Algorithm::RS256), ("3", Algorithm::EdDSA), ("4", Algorithm::PS384)];
    service.says("200 OK", &set(&keys));
    for (id, algorithm) in keys {
        assert_eq!(shows(&broker, &token(id, algorithm)), "let in", "{algorithm:?}");
    }
    assert_eq!(shows(&broker, &first), "refused", "its key is not in the set any more");
    // Not again for each unknown one; and the old set stays while the service is wrong.
    let asked = || service.asked.lock().expect("no panic with it").len();
    service.says("200 OK", r#"{"keys": []}"#);
    let before = asked();
    for n in 0..5 {
        assert_eq!(shows(&broker, &token(&format!("x{n}"), Algorithm::ES256)), "refused");
    }
    assert_eq!(asked(), before, "it is not asked for each unknown key");
    assert_eq!(shows(&broker, &token("2", Algorithm::RS256)), "let in");
}

/// `openssl s_server`, which ends with the test.
struct Secure(Child);

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_key_set_is_fetched_over_https_from_whom_the_authority_vouches_for() {
    let directory = Directory::new();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let (certificate, private) = (directory.file("server.crt"), directory.file("server.key"));
    fs::write(&certificate, made.cert.pem()).expect("a file");
    fs::write(&private, made.signing_key.serialize_pem()).expect("a file");
    let body = set(&[("1", Algorithm::ES256)]);
    let head = format!("HTTP/1.0 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    fs::write(directory.file("keys"), head + &body).expect("a file");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let port = port.expect("a free port").port();
    let mut server = Command::new("openssl");
    server.args(["s_server", "-HTTP", "-accept", &format!("127.0.0.1:{port}")]);
    server.args(["-cert", &certificate, "-key", &private]).current_dir(directory.file(""));
    server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Secure(server.spawn().expect("openssl is installed: apt install openssl"));
    let of = |ca: &str| {
        let keys = format!("jwks: 'https://127.0.0.1:{port}/keys', timeout: 2s{ca}");
        Broker::start(&[&format!("access.authentication=[{{jwt: {{{keys}}}}}]")])
    };
    let first = token("1", Algorithm::ES256);
    let broker = of(&format!(", ca: {certificate}"));
    eventually("the set is fetched", || shows(&broker, &first) == "let in");
    let broker = of("");
    assert_eq!(shows(&broker, &first), "unavailable", "nobody vouches for the server");
}

#[test]
fn a_service_says_what_clients_may_do() {
    let service = Service::start();
    let body = "{user: '${username}', action: '${action}', topic: '${topic}', qos: '${qos}'}";
    let url = format!("http://{}/acl", service.address);
    let rules = format!(
        "access.authorization=[{{rules: {{list: [{{allow: publish, topics: [open]}}]}}}}, \
         {{http: {{url: '{url}', body: {body}, timeout: 500ms, retries: 0}}}}, \
         {{rules: {{list: [{{allow: publish, topics: [behind]}}]}}}}]"
    );
    let broker = Broker::start(&[&rules, "access.cache.ttl=1s", "log.level=info"]);
    let sends = |topic: &str| {
        let arguments = ["-V", "5", "-t", topic, "-m", "x", "-q", "1", "-d"];
        let text = publish(&broker, &arguments).1;
        if text.contains("RC:135") { "denied" } else { "allowed" }
    };
    service.says("200 OK", r#"{"result": "deny"}"#);
    assert_eq!(sends("open"), "allowed", "a rule before it decides");
    assert_eq!(service.asked.lock().expect("no panic with it").len(), 0);
    assert_eq!(sends("a/b"), "denied");
    let asked = service.asked.lock().expect("no panic with it").last().cloned();
    let asked = asked.expect("it was asked");
    assert!(asked.contains(r#""action":"publish","topic":"a/b","qos":"1""#), "{asked}");
    service.says("200 OK", r#"{"result": "allow"}"#);
    assert_eq!(sends("a/b"), "allowed");
    service.says("200 OK", r#"{"result": "ignore"}"#);
    assert_eq!((sends("a/b"), sends("behind")), ("denied", "allowed"));
    for (status, body) in [("500 Oops", ""), ("200 OK", "<html>"), ("200 OK", "{}")] {
        service.says(status, body);
        assert_eq!(sends("behind"), "denied", "{status} {body}");
    }
    // Slow: only the packets of the client that is asked about wait.
    service.says("200 OK", r#"{"result": "allow"}"#);
    let mut steady = Connect::new(V5, unique("steady")).open(&broker);
    steady.granted("open", 1);
    *service.answer.lock().expect("no panic with it") = HANG.to_owned();
    let mut held: Vec<Client> = (0..50)
        .map(|_| {
            let mut client = Connect::new(V5, unique("held")).open(&broker);
            client.publish(&Publish::new("slow", 0, "x"));
            client
        })
        .collect();
    let began = Instant::now();
    for _ in 0..20 {
        steady.publish(&Publish::new("open", 1, "y"));
        steady.expect("y");
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // Each goes on when the service's time is over.
    for client in &mut held {
        client.ping();
    }
}
