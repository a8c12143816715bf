use super::*;
use crate::access::chain::word;
use crate::access::keys::HMAC;
use crate::config::TextTable;
use crate::ids::Peer;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

const NOW: u64 = 1_800_000_000;

fn proof(token: &str) -> Proof {
    Proof {
        client_id: "c1".into(),
        username: Some("ann".into()),
        password: Some(token.as_bytes().into()),
        peer: Peer::Unix,
        listener: "main".into(),
        identity: None,
        attributes: Box::default(),
    }
}

fn section() -> config::JwtConfig {
    let claims = vec![("sub".into(), "${client_id}".into())];
    config::JwtConfig {
        secret: config::Text::of("secret"),
        claims: TextTable(claims),
        ..Default::default()
    }
}

fn token(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::new(algorithm), claims, &key).expect("it can be signed")
}

#[test]
fn a_token_is_as_good_as_its_signature_and_its_claims() {
    let audience = config::Text::of("mqtt");
    let issuer = config::Text::of("us");
    let jwt = Jwt::new(&config::JwtConfig { audience, issuer, ..section() }, None, None)
        .expect("a secret");
    let good = json!({"sub": "c1", "aud": ["x", "mqtt"], "iss": "us", "exp": NOW + 10});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        word(&jwt.verify(&proof(&token(Algorithm::HS256, "secret", &claims)), None, NOW))
    };
    assert_eq!(with("x", json!(1)), "accepted");
    assert_eq!(with("exp", json!(NOW)), "the token has expired");
    assert_eq!(with("exp", json!("soon")), "a time of the token is no number");
    assert_eq!(with("nbf", json!(NOW + 1)), "the token is not valid yet");
    assert_eq!(with("aud", json!("mqtts")), "the token is for another audience");
    assert_eq!(with("iss", Value::Null), "the token is of another issuer");
    assert_eq!(with("sub", json!("c2")), "a claim of the token is not as it must be");
    assert_eq!(with("acl", json!("x")), "the acl is neither a list of rules nor lists of topics");
    for algorithm in HMAC {
        let shown = proof(&token(algorithm, "secret", &good));
        assert_eq!(word(&jwt.verify(&shown, None, NOW)), "accepted");
        let forged = proof(&token(algorithm, "other", &good));
        assert_eq!(word(&jwt.verify(&forged, None, NOW)), "unknown");
    }
    for no_token in ["", "a.b.c", "x", "eyJhbGciOiJub25lIn0.e30."] {
        assert_eq!(word(&jwt.verify(&proof(no_token), None, NOW)), "unknown", "{no_token}");
    }
}

#[test]
fn what_a_token_grants_ends_with_it() {
    let section = config::JwtConfig { username_claim: config::Text::of("name"), ..section() };
    let jwt = Jwt::new(&section, None, None).expect("a secret");
    let claims = json!({"sub": "c1", "exp": NOW + 10, "name": "bob", "is_superuser": true,
        "acl": {"pub": ["a"]}, "client_attrs": {"group": "g"}});
    let verdict = jwt.verify(&proof(&token(Algorithm::HS512, "secret", &claims)), None, NOW);
    let Verdict::Accept(accepted) = verdict else { panic!("{verdict:?}") };
    assert_eq!(accepted.username.as_deref(), Some("bob"));
    assert_eq!(accepted.lasts, Some(10_000));
    assert!(accepted.superuser);
    assert_eq!(accepted.rules.map(|rules| rules.len()), Some(1));
    assert_eq!(&*accepted.attributes[0].1, "g");
}

/// A public key is not a shared secret: a token signed with the key's text as the secret is
/// refused.
#[test]
fn a_public_key_takes_no_other_kind_of_signature() {
    let pem = include_str!("../../tests/keys/ec-public.pem");
    let jwt = Jwt::new(&section(), Some(pem), None).expect("a key");
    let claims = json!({"sub": "c1"});
    let confused = token(Algorithm::HS256, pem, &claims);
    assert_eq!(word(&jwt.verify(&proof(&confused), None, NOW)), "unknown");
    let private = include_bytes!("../../tests/keys/ec-private.pem");
    let key = EncodingKey::from_ec_pem(private).expect("a key");
    let signed = encode(&Header::new(Algorithm::ES256), &claims, &key).expect("it can be signed");
    assert_eq!(word(&jwt.verify(&proof(&signed), None, NOW)), "accepted");
    assert!(Jwt::new(&section(), Some("nonsense"), None).is_err());
}

#[test]
fn rsa_and_ed25519_keys_are_taken() {
    let cases: [(&str, &[u8], &[Algorithm]); 2] = [
        (
            include_str!("../../tests/keys/rsa-public.pem"),
            include_bytes!("../../tests/keys/rsa-private.pem"),
            &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
        ),
        (
            include_str!("../../tests/keys/ed-public.pem"),
            include_bytes!("../../tests/keys/ed-private.pem"),
            &[Algorithm::EdDSA],
        ),
    ];
    for (public, private, algorithms) in cases {
        let jwt = Jwt::new(&section(), Some(public), None).expect("a key");
        let key = EncodingKey::from_rsa_pem(private).or_else(|_| EncodingKey::from_ed_pem(private));
        let key = key.expect("a key");
        for &algorithm in algorithms {
            let header = Header::new(algorithm);
            let signed = encode(&header, &json!({"sub": "c1"}), &key).expect("it can be signed");
            assert_eq!(word(&jwt.verify(&proof(&signed), None, NOW)), "accepted", "{algorithm:?}");
        }
    }
}

/// Signed by OpenSSL 3.0 with the private key of this public one.
const ES512: [&str; 3] = [
    "eyJhbGciOiJFUzUxMiIsInR5cCI6IkpXVCJ9",
    "eyJzdWIiOiJjMSJ9",
    "AY133XP_oqo41VhFYc4w-eB-4ryI8uXr24yfFPTuKvUEd_7O7AatIWdFISM9UzUd1ktF50qXMC86rY7ScbrcfFy4\
     Abmz0Mzo1CI-EntR5R8cv0eSoETXLawKQ2qVdNe8P2Ebrv3JgnZYTsFlvr32OFBgZg8KSSLIz7GHWjxVXOw6AfCt",
];

#[test]
fn a_token_of_p521_is_taken() {
    let pem = include_str!("../../tests/keys/p521-public.pem");
    let jwt = Jwt::new(&section(), Some(pem), None).expect("a key");
    let says = |token: &str| word(&jwt.verify(&proof(token), None, NOW));
    let [head, claims, signature] = ES512;
    assert_eq!(says(&ES512.join(".")), "accepted");
    let part = |json: Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let other = part(json!({"sub": "c1", "is_superuser": true}));
    assert_eq!(says(&format!("{head}.{other}.{signature}")), "unknown", "other claims");
    for (at, _) in signature.char_indices() {
        let mut forged = signature.to_owned();
        let letter = if signature.as_bytes()[at] == b'B' { "C" } else { "B" };
        forged.replace_range(at..=at, letter);
        assert_eq!(says(&format!("{head}.{claims}.{forged}")), "unknown", "letter {at}");
        assert_eq!(says(&format!("{head}.{claims}.{}", &signature[..at])), "unknown", "{at}");
    }
    // The key is for this algorithm only, and a header must not demand extensions.
    for header in
        [json!({"alg": "ES256"}), json!({"alg": "none"}), json!({"alg": "ES512", "crit": []})]
    {
        assert_eq!(says(&format!("{}.{claims}.{signature}", part(header))), "unknown");
    }
    let secret = Jwt::new(&section(), None, None).expect("a secret");
    assert_eq!(word(&secret.verify(&proof(&ES512.join(".")), None, NOW)), "unknown");
    let p256 = include_str!("../../tests/keys/ec-public.pem");
    let p256 = Jwt::new(&section(), Some(p256), None).expect("a key");
    assert_eq!(word(&p256.verify(&proof(&ES512.join(".")), None, NOW)), "unknown");
}

/// The point of the key.
const X: &str =
    "AHIW9UX28ghQGsfpwkGellZl3voFfuYyb9A0Xjvgkv3BFIKUz6BRzCKe5LUm6asAJ7TaJM3_APC5POfHBCg22tor";
const Y: &str =
    "ATp-sYfeAsm6ubhoI5zF96c1sh4xWPLlmvEaoYNCjLuLGISKTgsN-BBVJcYYR01aVuaV5TRGs-5NvMNS2O9IElE1";

#[test]
fn a_key_set_has_keys_of_p521() {
    let set = json!({"keys": [{"kty": "EC", "crv": "P-521", "kid": "1", "alg": "ES512",
        "use": "sig", "x": X, "y": Y}]});
    let set = KeySet::parse(set.to_string().as_bytes()).expect("a set");
    let section = config::JwtConfig { jwks: config::Text::of("http://keys/"), ..section() };
    let jwt = Jwt::new(&section, None, None).expect("a set");
    assert_eq!(word(&jwt.verify(&proof(&ES512.join(".")), Some(&set), NOW)), "accepted");
    for wrong in [json!({"alg": "ES384"}), json!({"crv": "P-384"}), json!({"x": "AA"})] {
        let mut key = json!({"kty": "EC", "crv": "P-521", "x": X, "y": Y});
        assert!(KeySet::parse(json!({"keys": [key.clone()]}).to_string().as_bytes()).is_ok());
        for (name, value) in wrong.as_object().expect("an object") {
            key[name] = value.clone();
        }
        assert!(KeySet::parse(json!({"keys": [key]}).to_string().as_bytes()).is_err(), "{wrong}");
    }
}
