//! Enhanced authentication with SCRAM (MQTT 5.0 section 4.12): the exchange before CONNACK, again
//! on a live connection, and what ends it.

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::support::packet::properties;
use crate::support::reason::*;
use crate::support::wire::Writer;
use crate::support::*;

const METHOD: &str = "SCRAM-SHA-256";
const CONTINUE: u8 = 0x18;
const AGAIN: u8 = 0x19;
const BARE: &str = "n=ann,r=fyko+d2lbbFgONRv9qkxdawL";

fn broker() -> &'static Broker {
    // The suite that runs beside this one, with other shards, may write the same user: it replaces
    // the file as a whole.
    static FILE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let path = FILE.get_or_init(|| {
        let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/scram-users").to_owned();
        let made = ["passwd", "-b", "apple", "-H", "scram", "-I", "100", &path, "ann"];
        assert_eq!(crate::support::broker::run(&made).code, Some(0));
        path
    });
    Broker::shared(&[&format!("access.authentication=[{{scram: {{path: {path}}}}}]")])
}

fn with(method: &str, data: &str) -> [Property; 2] {
    [
        Property::AuthenticationMethod(method.into()),
        Property::AuthenticationData(data.as_bytes().to_vec()),
    ]
}

fn auth(reason: u8, method: &str, data: &str) -> Vec<u8> {
    properties(Writer::new().u8(reason), &with(method, data)).packet(0xf0)
}

fn connect() -> Connect {
    let [method, data] = with(METHOD, &format!("n,,{BARE}"));
    Connect::new(V5, unique("scram")).with(method).with(data)
}

fn data(list: &[Property]) -> String {
    assert!(list.contains(&Property::AuthenticationMethod(METHOD.into())), "{list:?}");
    let data = list.iter().find_map(|property| match property {
        Property::AuthenticationData(data) => Some(data.clone()),
        _ => None,
    });
    String::from_utf8(data.expect("authentication data")).expect("text")
}

/// Waits for an AUTH and returns its data.
fn challenge(c: &mut Client, reason: u8) -> String {
    c.wait_for("AUTH", |packet| match packet {
        Packet::Auth { reason: code, properties } if *code == reason => Some(data(properties)),
        _ => None,
    })
}

/// The client's last message, and what the server must answer.
fn proof(password: &str, server: &str) -> (String, String) {
    let field = |name: &str| server.split(',').find_map(|field| field.strip_prefix(name));
    let salt = BASE64_STANDARD.decode(field("s=").expect("a salt")).expect("base64");
    let iterations = field("i=").and_then(|count| count.parse().ok()).expect("a number");
    let mut salted = [0; 32];
    let password = password.as_bytes();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password, &mut salted);
    let sign = |key: &[u8], text: &[u8]| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
    };
    let key = sign(&salted, b"Client Key");
    let without = format!("c=biws,r={}", field("r=").expect("a nonce"));
    let signed = format!("{BARE},{server},{without}");
    let stored = digest::digest(&digest::SHA256, &key);
    let signature = sign(stored.as_ref(), signed.as_bytes());
    let proof: Vec<u8> = key.iter().zip(&signature).map(|(one, other)| one ^ other).collect();
    let verifier = sign(&sign(&salted, b"Server Key"), signed.as_bytes());
    let shown = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    (format!("{without},p={}", shown(&proof)), format!("v={}", shown(&verifier)))
}

fn open() -> Client {
    let mut c = Client::raw(broker(), V5);
    c.send(&connect().encode());
    let server = challenge(&mut c, CONTINUE);
    let (last, verifier) = proof("apple", &server);
    c.send(&auth(CONTINUE, METHOD, &last));
    let answer = c.connack();
    assert_eq!(answer.code, SUCCESS);
    // [MQTT-4.12.0-5]: the method in CONNACK too, with the server's proof.
    assert_eq!(data(&answer.properties), verifier);
    c
}

#[test]
fn an_exchange_ends_with_connack() {
    let mut c = open();
    c.ping();
    c.granted("a", 1);
}

#[test]
fn who_does_not_know_the_password_is_refused() {
    let mut c = Client::raw(broker(), V5);
    c.send(&connect().encode());
    let server = challenge(&mut c, CONTINUE);
    c.send(&auth(CONTINUE, METHOD, &proof("pear", &server).0));
    assert_eq!(c.connack().code, NOT_AUTHORIZED);
    c.expect_closed();
    // A name and password are no substitute, and there is nobody else to ask.
    let plain = Connect::new(V5, unique("scram")).login(Some("ann"), Some("apple"));
    plain.refused(broker(), BAD_CREDENTIALS);
}

#[test]
fn a_method_that_is_not_offered_is_refused() {
    for method in ["SCRAM-SHA-1", "PLAIN", "", "scram-sha-256"] {
        let [method, data] = with(method, "n,,n=ann,r=x");
        let connect = Connect::new(V5, unique("scram")).with(method).with(data);
        connect.refused(broker(), BAD_AUTHENTICATION_METHOD);
    }
}

/// [MQTT-3.1.2-30]: until CONNACK nothing but AUTH and DISCONNECT.
#[test]
fn other_packets_end_an_exchange() {
    let publish = Publish::new("a", 0, "x").encode(V5);
    let cases = [
        publish,
        vec![0xc0, 0],
        auth(CONTINUE, "SCRAM-SHA-512", "c=biws"),
        auth(AGAIN, METHOD, "c=biws"),
        auth(SUCCESS, METHOD, "c=biws"),
        vec![0xf0, 0],
    ];
    for packet in cases {
        let mut c = Client::raw(broker(), V5);
        c.send(&connect().encode());
        challenge(&mut c, CONTINUE);
        c.send(&packet);
        assert_eq!(c.connack().code, PROTOCOL_ERROR, "{packet:x?}");
        c.expect_closed();
    }
    let mut c = Client::raw(broker(), V5);
    c.send(&connect().encode());
    challenge(&mut c, CONTINUE);
    c.send(&[0xe0, 0]);
    c.expect_closed();
}

#[test]
fn a_live_client_proves_itself_again() {
    let mut c = open();
    for _ in 0..2 {
        c.send(&auth(AGAIN, METHOD, &format!("n,,{BARE}")));
        let server = challenge(&mut c, CONTINUE);
        // Other packets go on meanwhile.
        c.ping();
        let (last, verifier) = proof("apple", &server);
        c.send(&auth(CONTINUE, METHOD, &last));
        assert_eq!(challenge(&mut c, SUCCESS), verifier);
        c.ping();
    }
}

/// [MQTT-4.12.1-2]: a failed re-authentication ends the connection.
#[test]
fn a_live_client_that_cannot_is_disconnected() {
    let mut c = open();
    c.send(&auth(AGAIN, METHOD, &format!("n,,{BARE}")));
    let server = challenge(&mut c, CONTINUE);
    c.send(&auth(CONTINUE, METHOD, &proof("pear", &server).0));
    c.expect_violation(&[NOT_AUTHORIZED]);
    // [MQTT-4.12.1-1]: with the method of CONNECT.
    for packet in [auth(AGAIN, "SCRAM-SHA-512", "n,,n=ann,r=x"), auth(CONTINUE, METHOD, "c=biws")] {
        let mut c = open();
        c.send(&packet);
        c.expect_violation(&[PROTOCOL_ERROR]);
    }
}
