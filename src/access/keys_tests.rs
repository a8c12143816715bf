use super::*;
use serde_json::json;

/// The key of RFC 7517, appendix A.1, and one on the same curve that is for encryption.
fn set(more: &Value) -> Value {
    let point = json!({"kty": "EC", "crv": "P-256",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"});
    let mut key = point.clone();
    for (name, value) in more.as_object().into_iter().flatten() {
        key[name] = value.clone();
    }
    json!({"keys": [key]})
}

fn parsed(set: &Value) -> Result<KeySet, &'static str> {
    KeySet::parse(set.to_string().as_bytes())
}

#[test]
fn a_key_is_used_for_what_it_is_for() {
    let set_of = |more| parsed(&set(&more)).expect("a set");
    let any = set_of(json!({}));
    assert!(any.knows("whatever") && any.keys()[0].takes(Known(Algorithm::ES256), Some("x")));
    assert!(!any.keys()[0].takes(Known(Algorithm::ES384), None), "the curve decides");
    assert!(!any.keys()[0].takes(Known(Algorithm::HS256), None), "a public key is no secret");
    let named = set_of(json!({"kid": "1", "alg": "ES256", "use": "sig"}));
    assert!(named.knows("1") && !named.knows("2"));
    assert!(named.keys()[0].takes(Known(Algorithm::ES256), Some("1")));
    assert!(!named.keys()[0].takes(Known(Algorithm::ES256), Some("2")));
    for wrong in [json!({"use": "enc"}), json!({"alg": "ES384"}), json!({"crv": "P-521"})] {
        assert!(parsed(&set(&wrong)).is_err(), "{wrong}");
    }
}

#[test]
fn what_is_no_key_set_is_not_taken() {
    let secret = json!({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]});
    let many = json!({"keys": vec![json!({}); MOST_KEYS + 1]});
    for wrong in [json!({}), json!({"keys": {}}), json!({"keys": [1]}), secret, many] {
        assert!(parsed(&wrong).is_err());
    }
    assert!(KeySet::parse(b"<html>").is_err());
    // A key that cannot be used does not make the others unusable.
    let mut mixed = set(&json!({}));
    mixed["keys"].as_array_mut().expect("a list").push(json!({"kty": "unheard of"}));
    assert_eq!(parsed(&mixed).map(|set| set.len()), Ok(1));
}
