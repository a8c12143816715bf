use super::*;
use crate::bridge::testing::Scratch;

const NOW: u64 = 1_700_000_000_000;

fn jwt(claims: &str) -> String {
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part(r#"{"alg":"none"}"#), part(claims), part("signature"))
}

#[test]
fn a_token_says_when_it_ends_and_whom_it_names() {
    let exp = NOW / 1000 + 300;
    for (text, lifetime, principal, until) in [
        (jwt(&format!(r#"{{"sub":"site-7","exp":{exp}}}"#)), None, "site-7", NOW + 300_000),
        (jwt(&format!(r#"{{"sub":"a","exp":{exp}.5}}"#)), None, "a", NOW + 300_500),
        // Whichever is sooner.
        (jwt(&format!(r#"{{"exp":{exp}}}"#)), Some(60_000), NAMELESS, NOW + 60_000),
        (jwt(&format!(r#"{{"exp":{exp}}}"#)), Some(600_000), NAMELESS, NOW + 300_000),
        (jwt(r#"{"sub":7}"#), None, NAMELESS, NOW + UNKNOWN),
        ("opaque".to_owned(), Some(9_000), NAMELESS, NOW + 9_000),
        ("  opaque\n".to_owned(), None, NAMELESS, NOW + UNKNOWN),
        ("no.base64!.x".to_owned(), None, NAMELESS, NOW + UNKNOWN),
    ] {
        let token = read(&text, lifetime, NOW).expect("a token");
        assert_eq!((&*token.principal, token.until), (principal, until), "{text}");
        assert_eq!(token.text, text.trim());
        assert!(!format!("{token:?}").contains(text.trim()), "a token is a secret");
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let over = jwt(&format!(r#"{{"exp":{}}}"#, NOW / 1000));
    for (text, why) in [
        ("", "there is no token"),
        (" \n", "there is no token"),
        ("two words", "a token has no spaces"),
        ("a\u{1}b", "a token has no spaces"),
        ("\u{e9}", "a token has no spaces"),
        (&over, "the token's time is over"),
        (&jwt(r#"{"exp":-1}"#), "the token's time is over"),
    ] {
        let found = read(text, None, NOW).expect_err("no token");
        assert!(found.starts_with(why), "{text}: {found}");
    }
    assert!(read("a", Some(0), NOW).is_err());
    // Numbers without sense neither wrap nor panic.
    assert_eq!(read("a", Some(u64::MAX), NOW).expect("a token").until, u64::MAX);
    assert_eq!(read(&jwt(r#"{"exp":1e300}"#), None, NOW).expect("a token").until, u64::MAX);
}

#[test]
fn what_a_token_endpoint_answers() {
    let good = br#"{"access_token":"opaque","token_type":"Bearer","expires_in":120}"#;
    let token = answered(200, good, NOW).expect("a token");
    assert_eq!((&*token.text, token.until), ("opaque", NOW + 120_000));
    for (status, body, why) in [
        (
            401,
            &br#"{"error":"invalid_client"}"#[..],
            "the token endpoint answers 401 invalid_client",
        ),
        (503, b"<html>", "the token endpoint answers 503"),
        (302, b"", "the token endpoint answers 302"),
        (200, b"<html>", "the token endpoint's answer has no access_token"),
        (200, br#"{"access_token":7}"#, "the token endpoint's answer has no access_token"),
        (200, br#"{"access_token":"a","token_type":"mac"}"#, "the token endpoint's answer is no"),
        (200, br#"{"access_token":"a","expires_in":0}"#, "the token's time is over"),
    ] {
        let found = answered(status, body, NOW).expect_err("no token");
        assert!(found.starts_with(why), "{found}");
        assert!(!found.contains("html"));
    }
}

#[test]
fn a_file_is_read_again_and_the_last_token_serves_while_it_is_valid() {
    let scratch = Scratch::new();
    let path = scratch.0.join("token");
    let text = format!("token_file: {}", path.display());
    let sasl: KafkaSasl = serde_yaml::from_str(&text).expect("a section");
    let source = TokenSource::new(&sasl, "lake").expect("no file is read").expect("a source");
    let missing = source.token().expect_err("no file");
    assert!(missing.starts_with("sasl.token_file: "), "{missing}");
    std::fs::write(&path, "first\n").expect("written");
    assert_eq!(source.token().expect("a token").text, "first");
    std::fs::write(&path, "second").expect("written");
    assert_eq!(source.token().expect("a token").text, "second");
    std::fs::write(&path, "").expect("written");
    assert_eq!(source.token().expect("the last one").text, "second");
    source.forget();
    assert!(source.token().expect_err("refused").ends_with("there is no token"));
    std::fs::write(&path, "x".repeat(MOST + 1)).expect("written");
    assert!(source.token().expect_err("too long").ends_with("too long for a token"));
}
