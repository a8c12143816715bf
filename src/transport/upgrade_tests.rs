use super::*;
use std::net::SocketAddr;

fn web() -> Web {
    let origins = ["https://app.example", "http://localhost:3000"].map(Box::from);
    Web { path: "/mqtt".into(), origins: Some(Box::new(origins)) }
}

/// The request of RFC 6455, section 1.3, with MQTT's subprotocol.
const LINES: [&str; 8] = [
    "GET /mqtt HTTP/1.1",
    "Host: server.example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol: mqtt",
    "Sec-WebSocket-Version: 13",
    "Origin: https://app.example",
];

fn request(lines: &[&str]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line, "\r\n"]).chain(["\r\n"]).collect::<String>().into_bytes()
}

/// The request with the line that begins with `old` replaced by `new`, or removed if `new` is
/// empty.
fn instead(old: &str, new: &str) -> Vec<u8> {
    let lines: Vec<&str> = LINES
        .iter()
        .map(|line| if line.starts_with(old) { new } else { line })
        .filter(|line| !line.is_empty())
        .collect();
    request(&lines)
}

fn peer() -> Peer {
    Peer::from("10.0.0.1:7".parse::<SocketAddr>().expect("an address"))
}

/// The outcome of a request that arrives in pieces of `size` bytes, and the answer.
fn ask(bytes: &[u8], size: usize) -> (Result<Option<usize>, &'static str>, String) {
    let trusted = Networks(vec!["10.0.0.0/8".parse().expect("a network")]);
    let mut exchange = Exchange::default();
    let (mut have, mut known) = (0, 0);
    while have < bytes.len() {
        have = (have + size).min(bytes.len());
        let taken = take(&bytes[..have], known, &web(), &trusted, peer(), &mut exchange);
        known = have;
        if !matches!(taken, Ok(None)) {
            let text = String::from_utf8(exchange.wire).expect("HTTP is text");
            return (taken.map_err(|fault| fault.what), text);
        }
    }
    (Ok(None), String::new())
}

#[test]
fn a_request_is_granted_however_it_is_cut() {
    let bytes = request(&LINES);
    for size in 1..=bytes.len() {
        let (taken, answer) = ask(&bytes, size);
        assert_eq!(taken, Ok(Some(bytes.len())));
        let (status, rest) = answer.split_once("\r\n").expect("a status");
        assert_eq!(status, "HTTP/1.1 101 Switching Protocols");
        // The value of the RFC's own example.
        for line in [
            "Upgrade: websocket\r\n",
            "Connection: Upgrade\r\n",
            "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
            "Sec-WebSocket-Protocol: mqtt\r\n",
        ] {
            assert!(rest.contains(line), "{line} {answer}");
        }
        assert!(rest.ends_with("\r\n\r\n") && !rest.contains("Extensions"), "{answer}");
    }
    let behind = [&bytes[..], b"\x82\x80"].concat();
    assert_eq!(ask(&behind, behind.len()).0, Ok(Some(bytes.len())));
}

#[test]
fn requests_of_other_clients_and_proxies_are_granted_too() {
    for bytes in [
        instead("GET", "GET /mqtt?token=1 HTTP/1.1"),
        instead("Connection", "Connection: keep-alive, UPGRADE"),
        instead("Upgrade", "upgrade: WebSocket"),
        instead("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: mqttv3.1, mqtt"),
        instead("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: mqttv3.1"),
        instead("Origin", ""),
        instead("Origin", "Origin: http://LOCALHOST:3000"),
        instead("Origin", "Sec-WebSocket-Extensions: permessage-deflate"),
    ] {
        let (taken, answer) = ask(&bytes, bytes.len());
        assert!(matches!(taken, Ok(Some(_))), "{taken:?} {answer}");
    }
    let old = instead("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: mqttv3.1");
    assert!(ask(&old, 9).1.contains("Sec-WebSocket-Protocol: mqttv3.1\r\n"));
}

#[test]
fn every_other_request_gets_a_short_and_correct_answer() {
    let many: Vec<String> = (0..70).map(|at| format!("X-{at}: y")).collect();
    let many: Vec<&str> = LINES.into_iter().chain(many.iter().map(String::as_str)).collect();
    let cases = [
        (instead("GET", "GET / HTTP/1.1"), "404 Not Found"),
        (instead("GET", "GET /mqtt/ HTTP/1.1"), "404 Not Found"),
        (instead("GET", "POST /mqtt HTTP/1.1"), "405 Method Not Allowed"),
        (instead("GET", "GET /mqtt HTTP/1.0"), "505 HTTP Version Not Supported"),
        (instead("Upgrade", ""), "426 Upgrade Required"),
        (instead("Upgrade", "Upgrade: h2c"), "426 Upgrade Required"),
        (instead("Connection", "Connection: close"), "426 Upgrade Required"),
        (instead("Sec-WebSocket-Version", ""), "426 Upgrade Required"),
        (instead("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8"), "426 Upgrade Required"),
        (instead("Host", ""), "400 Bad Request"),
        (instead("Sec-WebSocket-Key", ""), "400 Bad Request"),
        (instead("Sec-WebSocket-Key", "Sec-WebSocket-Key: c2hvcnQ="), "400 Bad Request"),
        (instead("Sec-WebSocket-Key", "Sec-WebSocket-Key: no base64"), "400 Bad Request"),
        (instead("Sec-WebSocket-Protocol", ""), "400 Bad Request"),
        (instead("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: chat"), "400 Bad Request"),
        (instead("Origin", "Content-Length: 5"), "400 Bad Request"),
        (instead("Origin", "Transfer-Encoding: chunked"), "400 Bad Request"),
        (instead("Origin", "Origin: https://evil.example"), "403 Forbidden"),
        (instead("Origin", "no header"), "400 Bad Request"),
        (b"\x10\x16\x00\x04MQTT".to_vec(), "400 Bad Request"),
        (b"\x16\x03\x01\x02\x00".to_vec(), "400 Bad Request"),
        (b"GET\r\n\r\n".to_vec(), "400 Bad Request"),
        (request(&many), "431 Request Header Fields Too Large"),
        (vec![b'A'; UPGRADE_HEAD], "431 Request Header Fields Too Large"),
        (instead("Origin", &format!("X: {}", "y".repeat(9000))), "431 Request Header"),
    ];
    for (bytes, status) in cases {
        for size in [7, bytes.len()] {
            let (taken, answer) = ask(&bytes, size);
            let request = bytes.escape_ascii().to_string();
            assert!(taken.is_err(), "{request} {taken:?}");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request} {answer}");
            let (head, text) = answer.split_once("\r\n\r\n").expect("an empty line");
            assert!(head.contains(&format!("\r\nContent-Length: {}", text.len())), "{answer}");
            assert!(head.contains("\r\nConnection: "), "{answer}");
        }
    }
    let (_, answer) = ask(&instead("Upgrade", ""), 900);
    assert!(answer.contains("Upgrade: websocket\r\n") && answer.contains("Version: 13\r\n"));
    let (_, answer) = ask(&instead("GET", "HEAD /mqtt HTTP/1.1"), 900);
    assert!(
        answer.contains("405") && answer.contains("Allow: GET") && answer.ends_with("\r\n\r\n")
    );
}

#[test]
fn a_head_byte_by_byte_costs_in_proportion_to_its_length() {
    let mut exchange = Exchange::default();
    let (head, web, trusted) = (vec![b'A'; UPGRADE_HEAD - 1], web(), Networks::default());
    for have in 1..=head.len() {
        let taken = take(&head[..have], have - 1, &web, &trusted, peer(), &mut exchange);
        assert!(matches!(taken, Ok(None)));
    }
    assert!(exchange.work < 3 * cost::PACKET * UPGRADE_HEAD as u32, "{}", exchange.work);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_answered_or_waited_for(
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 1..600),
        from in 0usize..260,
        size in 1usize..60,
    ) {
        let mut mixed = request(&LINES);
        let from = from.min(mixed.len());
        mixed.splice(from.., bytes);
        let (taken, answer) = ask(&mixed, size);
        proptest::prop_assert_eq!(taken == Ok(None), answer.is_empty());
    }
}
