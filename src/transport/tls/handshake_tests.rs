//! Handshakes with rustls as client: suites, versions, certificates good and bad, tickets, splits.

use super::alert::Alert;
use super::testing::{Authority, Certified, Files, Pair, client_config, usual};
use super::{Handshake, KeyCache, Opened, Server, TlsFailureKind, provider, ticket_keys};
use crate::config::TlsConfig;
use crate::config::UsernameFrom;
use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
use rustls::{ClientConfig, SupportedCipherSuite};
use std::sync::Arc;

const MUTUAL: &str = "client_ca: ca.crt";

fn refused(
    files: &Files,
    tls: &str,
    authority: &Authority,
    client: Option<&Certified>,
) -> TlsFailureKind {
    let server = files.server(tls).unwrap();
    let mut kinds = [&rustls::version::TLS12, &rustls::version::TLS13].map(|version| {
        let suite = |suite: &&SupportedCipherSuite| suite.version() == version;
        let suite = provider().cipher_suites.iter().find(suite).copied();
        let config = Arc::new(client_config(authority, client, suite));
        let mut pair = Pair::new(&config, &server);
        let failure = pair.shake().expect_err("the client is refused");
        assert!(!failure.what.is_empty());
        failure.kind
    });
    kinds.sort_by_key(|kind| *kind as u8);
    assert_eq!(kinds[0], kinds[1], "both versions say the same");
    kinds[0]
}

#[test]
fn every_suite_carries_data_both_ways() {
    let (authority, files) = usual();
    let server = files.server("").unwrap();
    let mut count = 0;
    for suite in provider().cipher_suites.iter().copied() {
        // The server's key is ECDSA.
        if suite.tls13().is_none() && format!("{suite:?}").contains("RSA") {
            continue;
        }
        let config = Arc::new(client_config(&authority, None, Some(suite)));
        let mut pair = Pair::new(&config, &server);
        pair.shake().unwrap();
        for _ in 0..3 {
            pair.talk();
        }
        assert_eq!(pair.client.negotiated_cipher_suite(), Some(suite));
        count += 1;
    }
    assert_eq!(count, 6);
}

#[test]
fn a_first_message_that_is_no_client_hello_gets_an_alert() {
    let (_, files) = usual();
    let server = files.server("").unwrap();
    // ClientKeyExchange, an unknown type, and a ClientHello that ends within its version.
    for (message, alert) in [
        (&[16, 0, 0, 1, 0][..], Alert::UNEXPECTED_MESSAGE),
        (&[0xb7, 0, 0, 1, 0], Alert::UNEXPECTED_MESSAGE),
        (&[1, 0, 0, 1, 3], Alert::DECODE_ERROR),
    ] {
        let mut handshake = Handshake::default();
        handshake.add(&[&[22, 3, 1, 0, message.len() as u8], message].concat());
        let mut out = Vec::new();
        let failure = handshake.advance(&server, &mut KeyCache::default(), &mut out);
        assert_eq!(failure.err().map(|failure| failure.kind), Some(TlsFailureKind::Protocol));
        assert_eq!(out, [21, 3, 3, 0, 2, 2, alert.0], "{message:x?}");
    }
}

#[test]
fn a_message_that_is_too_long_ends_the_connection_with_a_word() {
    let (authority, files) = usual();
    let server = files.server(MUTUAL).unwrap();
    let mut client = authority.client("meter-7", |_| {});
    let more = authority.pem().repeat(300);
    client.chain.push_str(&more);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let suite = |suite: &&SupportedCipherSuite| suite.version() == version;
        let suite = provider().cipher_suites.iter().find(suite).copied();
        let config = Arc::new(client_config(&authority, Some(&client), suite));
        let mut pair = Pair::new(&config, &server);
        let hello = pair.client_says();
        let answer = pair.server_takes(&hello).unwrap();
        pair.client_takes(&answer).unwrap();
        let certificate = pair.client_says();
        assert!(certificate.len() > 100_000, "{}", certificate.len());
        let (failure, said) = pair.server_takes(&certificate).unwrap_err();
        assert_eq!(failure.kind, TlsFailureKind::Protocol, "{}", failure.what);
        assert!(!said.is_empty(), "the client is told");
        let heard = pair.client_takes(&said);
        assert!(
            heard.is_ok() || matches!(heard, Err(rustls::Error::AlertReceived(_))),
            "{heard:?}"
        );
    }
}

#[test]
fn aes_128_is_chosen_by_who_has_it() {
    let (authority, files) = usual();
    let server = files.server("").unwrap();
    let config = Arc::new(client_config(&authority, None, None));
    let mut pair = Pair::new(&config, &server);
    pair.shake().unwrap();
    let suite = pair.client.negotiated_cipher_suite().unwrap();
    assert_eq!(suite.suite(), rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert!(pair.tls.unwrap().peek().heap() <= 128);
}

#[test]
fn only_the_versions_of_the_section_are_spoken() {
    let (authority, files) = usual();
    for (versions, fits) in [("['1.2']", 0), ("[1.3]", 1)] {
        let server = files.server(&format!("versions: {versions}")).unwrap();
        for (at, version) in [&rustls::version::TLS12, &rustls::version::TLS13].iter().enumerate() {
            let suites = provider().cipher_suites.clone();
            let suite = suites.into_iter().find(|suite| suite.version() == *version);
            let config = Arc::new(client_config(&authority, None, suite));
            let outcome = Pair::new(&config, &server).shake();
            match at == fits {
                true => outcome.unwrap(),
                false => assert_eq!(outcome.unwrap_err().kind, TlsFailureKind::NothingInCommon),
            }
        }
    }
}

#[test]
fn the_clients_certificate_says_who_it_is() {
    let (authority, files) = usual();
    let server = files.server(MUTUAL).unwrap();
    let client = authority.client("meter-7", |_| {});
    let config = Arc::new(client_config(&authority, Some(&client), None));
    let mut pair = Pair::new(&config, &server);
    pair.shake().unwrap();
    pair.talk();
    let identity = pair.identity.as_ref().unwrap();
    let username = |from: UsernameFrom| identity.names.name(from.part()?).map(str::to_owned);
    assert_eq!(username(UsernameFrom::Off), None);
    assert_eq!(username(UsernameFrom::Cn).as_deref(), Some("meter-7"));
    assert_eq!(username(UsernameFrom::San).as_deref(), Some("meter-7.example"));
    assert_eq!(username(UsernameFrom::Dn).as_deref(), Some("CN=meter-7,O=Example\\, Inc"));
    assert_eq!(&*identity.serial, "1234");
    assert!(identity.not_after > 0 || identity.fingerprint > 0);
}

#[test]
fn certificates_are_optional_where_the_listener_says_so() {
    let (authority, files) = usual();
    let server = files.server("client_ca: ca.crt, client_certificate: optional").unwrap();
    let none = Arc::new(client_config(&authority, None, None));
    let mut pair = Pair::new(&none, &server);
    pair.shake().unwrap();
    assert!(pair.tls.is_some() && pair.identity.is_none());
    let stranger = Authority::new("Other CA").client("x", |_| {});
    let wrong = Arc::new(client_config(&authority, Some(&stranger), None));
    assert_eq!(
        Pair::new(&wrong, &server).shake().unwrap_err().kind,
        TlsFailureKind::UnknownAuthority
    );
}

#[test]
fn bad_certificates_are_refused_and_each_is_named() {
    let (authority, files) = usual();
    let other = Authority::new("Other CA");
    let files = files.with("crl.pem", &authority.crl(&[&[0x66]]));
    let expired = authority.client("late", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let early = authority.client("early", |params| params.not_before = date_time_ymd(2090, 1, 1));
    let usage = authority.client("usage", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let revoked = authority.client("gone", |params| {
        params.serial_number = Some(rcgen::SerialNumber::from(vec![0x66]));
    });
    let stranger = other.client("x", |_| {});
    let refused = |tls, client| refused(&files, tls, &authority, client);
    assert_eq!(refused(MUTUAL, None), TlsFailureKind::NoCertificate);
    assert_eq!(refused(MUTUAL, Some(&expired)), TlsFailureKind::CertificateExpired);
    assert_eq!(refused(MUTUAL, Some(&early)), TlsFailureKind::CertificateExpired);
    assert_eq!(refused(MUTUAL, Some(&usage)), TlsFailureKind::BadCertificate);
    assert_eq!(refused(MUTUAL, Some(&stranger)), TlsFailureKind::UnknownAuthority);
    let crl = "client_ca: ca.crt, crl: [crl.pem]";
    assert_eq!(refused(crl, Some(&revoked)), TlsFailureKind::CertificateRevoked);
    let good = Arc::new(client_config(&authority, Some(&authority.client("a", |_| {})), None));
    Pair::new(&good, &files.server(crl).unwrap()).shake().unwrap();
}

/// A config whose clients remember one server's tickets.
fn remembering(
    authority: &Authority,
    client: Option<&Certified>,
    tls13: bool,
) -> Arc<ClientConfig> {
    let suites = provider().cipher_suites.clone();
    let suite = suites.into_iter().find(|suite| suite.tls13().is_some() == tls13);
    Arc::new(client_config(authority, client, suite))
}

fn connects(config: &Arc<ClientConfig>, server: &Arc<Server>) -> bool {
    let mut pair = Pair::new(config, server);
    pair.shake().unwrap();
    pair.talk();
    pair.resumed
}

#[test]
fn a_ticket_resumes_here_and_nowhere_else() {
    let (authority, files) = usual();
    let files = files
        .with("more.crt", &(authority.pem() + &Authority::new("Second CA").pem()))
        .with("crl.pem", &authority.crl(&[&[0x77]]));
    let client = authority.client("meter", |_| {});
    for tls13 in [false, true] {
        let keys = ticket_keys(&TlsConfig::default());
        let server = |tls, name| files.server_with(tls, keys.clone(), name).unwrap();
        let config = remembering(&authority, Some(&client), tls13);
        let here = server(MUTUAL, "a");
        assert!(!connects(&config, &here));
        assert!(connects(&config, &here), "with its ticket");
        // The same files again, as after a reload.
        assert!(connects(&config, &server(MUTUAL, "a")));
        assert!(!connects(&config, &server(MUTUAL, "b")), "another listener");
        assert!(connects(&config, &server(MUTUAL, "b")));
        assert!(!connects(&config, &server("client_ca: more.crt", "b")), "other authorities");
        assert!(connects(&config, &server("client_ca: more.crt", "b")));
        let crl = "client_ca: more.crt, crl: [crl.pem]";
        assert!(!connects(&config, &server(crl, "b")), "another CRL");
        assert!(connects(&config, &server(crl, "b")));
        let optional = "client_ca: more.crt, crl: [crl.pem], client_certificate: optional";
        assert!(!connects(&config, &server(optional, "b")), "certificates are optional now");
    }
}

#[test]
fn one_ticket_is_sent_or_none() {
    let (authority, files) = usual();
    let config = remembering(&authority, None, true);
    let with = files.server("").unwrap();
    let without = files.server_with("tickets: {enabled: false}", None, "default").unwrap();
    let mut pair = Pair::new(&config, &with);
    pair.shake().unwrap();
    assert_eq!(pair.client.tls13_tickets_received(), 1);
    let mut pair = Pair::new(&config, &without);
    pair.shake().unwrap();
    assert_eq!(pair.client.tls13_tickets_received(), 0);
    let config = remembering(&authority, None, false);
    assert!(!connects(&config, &without));
    assert!(!connects(&config, &without));
}

#[test]
fn a_session_is_not_resumed_with_a_certificate_that_has_expired_since() {
    let (authority, files) = usual();
    let soon = time_from_now(2);
    let client = authority.client("brief", |params| params.not_after = soon);
    let server = files.server(MUTUAL).unwrap();
    let configs = [false, true].map(|tls13| remembering(&authority, Some(&client), tls13));
    for config in &configs {
        assert!(!connects(config, &server));
        assert!(connects(config, &server));
    }
    std::thread::sleep(std::time::Duration::from_millis(3100));
    for config in &configs {
        let failure = Pair::new(config, &server).shake().unwrap_err();
        assert_eq!(failure.kind, TlsFailureKind::CertificateExpired);
        assert!(failure.what.contains("since the session was begun"), "{}", failure.what);
    }
}

fn time_from_now(seconds: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::now_utc() + time::Duration::seconds(seconds)
}

#[test]
fn the_name_that_is_asked_for_gets_its_certificate() {
    let (authority, files) = usual();
    let files = files
        .certified("a", &authority.server(&["a.example"]))
        .certified("b", &authority.server(&["*.b.example"]));
    let sni = "sni: [{names: [a.example], certificate: a.crt, private_key: a.key}, \
               {names: ['*.b.example'], certificate: b.crt, private_key: b.key}]";
    let server = files.server(sni).unwrap();
    let config = Arc::new(client_config(&authority, None, None));
    for name in ["a.example", "A.Example", "x.b.example", "localhost", "y.wild.example"] {
        Pair::named(&config, &server, name).shake().unwrap();
    }
    let mut pair = Pair::named(&config, &server, "x.y.b.example");
    let hello = pair.client_says();
    let answer = pair.server_takes(&hello).unwrap();
    assert!(pair.client_takes(&answer).is_err(), "it gets the first one, which is not for it");
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let (authority, files) = usual();
    let old = authority.client("old", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let server = files.0["server.crt"].clone();
    let files = files
        .certified("old", &old)
        .with("none.crt", "nothing\n")
        .with("wrong.crt", &(authority.pem() + &server))
        .with(
            "locked.key",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        );
    let cases = [
        (
            "certificate: none.crt, private_key: server.key",
            "tls.certificate: none.crt: there is no",
        ),
        ("certificate: gone.crt, private_key: server.key", "tls.certificate: gone.crt: "),
        ("certificate: old.crt, private_key: old.key", "has expired"),
        (
            "certificate: server.crt, private_key: old.key",
            "old.key: it is not the key of server.crt",
        ),
        ("certificate: wrong.crt, private_key: server.key", "certificate 2 did not sign"),
        ("certificate: server.crt, private_key: locked.key", "locked.key: the key is encrypted"),
        ("certificate: server.crt, private_key: none.crt", "none.crt: there is no private key"),
        (
            "client_ca: server.crt",
            "tls.client_ca: server.crt: certificate 1 (CN=server) is no auth",
        ),
        ("client_ca: ca.crt, crl: [none.crt]", "tls.crl.0: none.crt: there is no CRL in it"),
        (
            "sni: [{names: [z.example], certificate: server.crt, private_key: server.key}]",
            "tls.sni.0.names: the certificate is not for `z.example` (server.crt)",
        ),
    ];
    for (tls, expected) in cases {
        let error = files.server(tls).unwrap_err();
        assert!(error.contains(expected), "{tls}: {error}");
    }
}

#[test]
fn what_is_not_tls_is_said_so() {
    let (_, files) = usual();
    let server = files.server("").unwrap();
    let (authority, _) = usual();
    let config = Arc::new(client_config(&authority, None, None));
    for (bytes, word) in [
        (&b"\x10\x0e\0\x04MQTT\x04\x02"[..], "MQTT without TLS"),
        (b"GET / HTTP/1.1\r\n", "HTTP without TLS"),
        (b"\0\0\0\0\0\0", "not TLS"),
        (b"\x16\x03\x01\xff\xff", "too long"),
    ] {
        let (failure, _) = Pair::new(&config, &server).server_takes(bytes).unwrap_err();
        assert_eq!(failure.kind, TlsFailureKind::NotTls);
        assert!(failure.what.contains(word), "{}", failure.what);
    }
}

/// A whole conversation. The bytes of the client are cut at `cut`, and the rest arrives later. The
/// last part of the handshake, data, a KeyUpdate and data again are one piece.
fn conversation(config: &Arc<ClientConfig>, server: &Arc<Server>, cut: Option<usize>) -> usize {
    let mut pair = Pair::new(config, server);
    let hello = pair.client_says();
    let answer = pair.server_takes(&hello).unwrap();
    pair.client_takes(&answer).unwrap();
    let mut bytes = Vec::new();
    let tls13 = pair.client.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
    if tls13 {
        bytes = pair.client_says();
        pair.client_writes(b"one");
        bytes.extend(pair.client_says());
        pair.client.refresh_traffic_keys().unwrap();
        pair.client_writes(b"two");
        bytes.extend(pair.client_says());
    } else {
        // The client waits for the server's Finished before it sends data.
        let finished = pair.client_says();
        let answer = pair.server_takes(&finished).unwrap();
        pair.client_takes(&answer).unwrap();
        pair.client_writes(b"one");
        pair.client_writes(b"two");
        bytes.extend(pair.client_says());
    }
    let cut = cut.unwrap_or(0);
    let mut answer = pair.server_takes(&bytes[..cut]).unwrap();
    answer.extend(pair.server_takes(&bytes[cut..]).unwrap());
    assert_eq!(pair.opened, Opened::All, "cut at {cut}");
    assert_eq!(pair.heard, b"onetwo", "cut at {cut}");
    assert_eq!(pair.client_takes(&answer).unwrap(), b"");
    pair.talk();
    bytes.len()
}

#[test]
fn finished_with_data_and_key_update_may_be_cut_anywhere() {
    let (authority, files) = usual();
    let server = files.server("").unwrap();
    for tls13 in [false, true] {
        let suites = provider().cipher_suites.clone();
        let suites = suites.into_iter().filter(|suite| suite.tls13().is_some() == tls13);
        // One suite for each hash.
        for suite in suites.filter(|suite| !format!("{suite:?}").contains("RSA")).take(3) {
            let mut config = client_config(&authority, None, Some(suite));
            config.resumption = rustls::client::Resumption::disabled();
            let config = Arc::new(config);
            let length = conversation(&config, &server, None);
            for cut in 1..length {
                conversation(&config, &server, Some(cut));
            }
        }
    }
}

#[test]
fn one_byte_at_a_time_is_understood() {
    let (authority, files) = usual();
    let server = files.server(MUTUAL).unwrap();
    let client = authority.client("slow", |_| {});
    let config = Arc::new(client_config(&authority, Some(&client), None));
    let mut pair = Pair::new(&config, &server);
    for _ in 0..4 {
        let bytes = pair.client_says();
        for byte in bytes {
            let answer = pair.server_takes(&[byte]).unwrap();
            pair.client_takes(&answer).unwrap();
        }
    }
    pair.talk();
}
