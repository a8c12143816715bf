use super::*;
use crate::access::chain::word;
use crate::config::{Text, TextTable};

fn table(pairs: &[(&str, &str)]) -> TextTable {
    TextTable(pairs.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect())
}

fn section() -> config::Http {
    config::Http { url: Text::of("http://127.0.0.1:1/auth?c=${clientid}"), ..Default::default() }
}

fn proof() -> Proof {
    Proof {
        client_id: "a b&c/../\"".into(),
        username: Some("ann".into()),
        password: Some(b"p\"w".as_slice().into()),
        peer: Peer::Tcp([10, 0, 0, 1].into(), 7),
        listener: "main".into(),
        identity: None,
        attributes: Box::default(),
    }
}

/// A client's names stay values: of the query, of a form, of JSON, of a header's line.
#[test]
fn values_cannot_change_the_request() {
    let body = table(&[("user", "${username}"), ("pass", "${password}"), ("ip", "${peerhost}")]);
    let headers = table(&[("x-user", "${username}")]);
    let json = config::Http { body: body.clone(), headers, ..section() };
    let odd = Proof { username: Some("a\r\nx: y".into()), ..proof() };
    let request = HttpAuthService::new(&json, None, Purpose::Authentication)
        .expect("it can be read")
        .request(&odd)
        .expect("no path");
    assert_eq!(request.url, "http://127.0.0.1:1/auth?c=a%20b%26c%2F..%2F%22");
    assert_eq!(request.headers[0], ("x-user".to_owned(), "a  x: y".to_owned()));
    let sent: Value = serde_json::from_slice(&request.body).expect("it is JSON");
    assert_eq!(sent, serde_json::json!({"user": "a\r\nx: y", "pass": "p\"w", "ip": "10.0.0.1"}));
    let get = config::Http { body, method: HttpMethod::Get, ..section() };
    let request = HttpAuthService::new(&get, None, Purpose::Authentication)
        .expect("it can be read")
        .request(&proof())
        .expect("no path");
    assert!(request.url.ends_with("%22&user=ann&pass=p%22w&ip=10.0.0.1"), "{}", request.url);
    assert!(request.body.is_empty());
    let wrong = config::Http { body: table(&[("x", "${topic}")]), ..section() };
    let wrong = HttpAuthService::new(&wrong, None, Purpose::Authentication);
    assert!(wrong.expect_err("there is no topic").contains("placeholder ${topic}"));
}

#[test]
fn answers_mean_what_emqx_says() {
    let deny =
        HttpAuthService::new(&section(), None, Purpose::Authentication).expect("it can be read");
    let ignoring = config::Http { on_failure: OnFailure::Ignore, ..section() };
    let ignoring =
        HttpAuthService::new(&ignoring, None, Purpose::Authentication).expect("it can be read");
    for (status, body, expected) in [
        (204, "", "accepted"),
        (200, r#"{"result": "allow"}"#, "accepted"),
        (200, r#"{"result": "deny"}"#, "the service refuses it"),
        (200, r#"{"result": "ignore"}"#, "unknown"),
        (200, r#"{"result": "allow", "expire_at": 99}"#, "the service says that it has expired"),
        (401, "", "unknown"),
        (302, "", "unknown"),
    ] {
        for service in [&deny, &ignoring] {
            assert_eq!(word(&service.judge(status, body.as_bytes(), 100)), expected, "{body}");
        }
    }
    for (status, body) in [
        (200, ""),
        (200, "<html>"),
        (200, "{}"),
        (200, r#"{"result": 1}"#),
        (200, r#"{"result": "allow", "acl": "x"}"#),
        (200, r#"{"result": "allow", "expire_at": "soon"}"#),
        (503, r#"{"result": "allow"}"#),
    ] {
        let verdict = deny.judge(status, body.as_bytes(), 100);
        assert!(matches!(verdict, Verdict::Failed(_)), "{body}");
        assert!(matches!(ignoring.judge(status, body.as_bytes(), 100), Verdict::Unknown), "{body}");
    }
    let full = r#"{"result": "allow", "is_superuser": true, "client_attrs": {"a": "b"},
        "expire_at": 110, "acl": [{"permission": "deny", "topic": "t"}]}"#;
    let verdict = deny.judge(200, full.as_bytes(), 100);
    let Verdict::Accept(accepted) = verdict else { panic!("{verdict:?}") };
    assert_eq!((accepted.superuser, accepted.lasts), (true, Some(10_000)));
    assert_eq!(accepted.rules.map(|rules| rules.len()), Some(1));
    assert_eq!(accepted.attributes.len(), 1);
}

#[test]
fn a_deed_is_asked_about_as_emqx_does() {
    let fields = [("who", "${username}"), ("what", "${action} ${topic} ${qos} ${retain}")];
    let body = fields.map(|(name, text)| (name.into(), text.into()));
    let section = config::Http { body: config::TextTable(body.into()), ..section() };
    let new = |section: &config::Http| HttpAuthService::new(section, None, Purpose::Authorization);
    let service = new(&section).expect("it can be read");
    let deed = Deed::Publish { qos: 1, retain: true };
    let request = service.request_for(&proof(), deed, "a/${username}").expect("no path");
    let body = String::from_utf8_lossy(&request.body).into_owned();
    assert!(body.contains("publish a/${username} 1 true"), "{body}");
    for (status, body, said) in [
        (200, r#"{"result": "allow"}"#, Said::Allow),
        (200, r#"{"result": "deny"}"#, Said::Deny),
        (200, r#"{"result": "ignore"}"#, Said::Nothing),
        (204, "", Said::Allow),
        (404, "", Said::Nothing),
        (200, "{}", Said::Failed("the service's answer has no result")),
        (200, "<html>", Said::Failed("the service's answer has no result")),
        (503, "", Said::Failed("the service fails")),
    ] {
        assert_eq!(service.judge_deed(status, body.as_bytes()), said, "{status} {body}");
    }
    let path = config::Http { url: config::Text::of("http://h/${topic}/x"), ..section.clone() };
    let path = new(&path).expect("it can be read");
    assert!(path.request_for(&proof(), deed, "..").is_none(), "another path");
    assert!(path.request_for(&proof(), deed, "../a").is_some(), "a `/` is encoded");
    let ignoring = config::Http { on_failure: OnFailure::Ignore, ..section.clone() };
    assert_eq!(new(&ignoring).expect("it can be read").judge_deed(503, b""), Said::Nothing);
    let password = config::Http { url: config::Text::of("http://h/${password}"), ..section };
    assert!(new(&password).expect_err("it is not kept").contains("placeholder ${password}"));
}
