use super::*;
use proptest::prelude::*;

const FEW: NonZeroU32 = NonZeroU32::new(100).expect("not zero");

fn file(users: &[(&str, &str)]) -> ScramFile {
    let line = |(user, password): &(&str, &str)| {
        format!("{user}:{}", make(password.as_bytes(), FEW).expect("there is randomness"))
    };
    let text: Vec<String> = users.iter().map(line).collect();
    ScramFile::parse(&text.join("\n")).expect("it can be read")
}

/// The client's side, as in RFC 5802 section 3.
fn last_message(
    mechanism: Mechanism,
    password: &str,
    bare: &str,
    server: &str,
) -> (String, String) {
    let field = |name: &str| {
        server.split(',').find_map(|field| field.strip_prefix(name)).expect("it is there")
    };
    let salt = BASE64_STANDARD.decode(field("s=")).expect("base64");
    let iterations = field("i=").parse().expect("a number");
    let algorithm = match mechanism {
        Mechanism::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
        Mechanism::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
    };
    let mut salted = vec![0; mechanism.length()];
    pbkdf2::derive(algorithm, iterations, &salt, password.as_bytes(), &mut salted);
    let key = mechanism.sign(&salted, b"Client Key");
    let without = format!("c=biws,r={}", field("r="));
    let signed = format!("{bare},{server},{without}");
    let signature = mechanism.sign(&mechanism.hash(&key), signed.as_bytes());
    let proof: Vec<u8> = key.iter().zip(&signature).map(|(one, other)| one ^ other).collect();
    let server_key = mechanism.sign(&salted, b"Server Key");
    let verifier = mechanism.sign(&server_key, signed.as_bytes());
    let shown = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    (format!("{without},p={}", shown(&proof)), format!("v={}", shown(&verifier)))
}

fn exchange(
    file: &ScramFile,
    mechanism: Mechanism,
    user: &str,
    password: &str,
) -> Result<Box<str>, ScramFailure> {
    let bare = format!("n={user},r=fyko+d2lbbFgONRv9qkxdawL");
    let first = format!("n,,{bare}");
    let (exchange, server) = ScramExchange::begin(file, mechanism, first.as_bytes())?;
    let (last, verifier) = last_message(mechanism, password, &bare, &server);
    let (user, answer) = exchange.finish(last.as_bytes())?;
    assert_eq!(answer, verifier, "the server proves itself, too");
    Ok(user)
}

#[test]
fn who_knows_the_password_is_let_in() {
    let file = file(&[("ann", "apple"), ("a=,b", "x")]);
    for mechanism in Mechanism::ALL {
        assert_eq!(exchange(&file, mechanism, "ann", "apple").as_deref(), Ok("ann"));
        assert_eq!(exchange(&file, mechanism, "a=3D=2Cb", "x").as_deref(), Ok("a=,b"));
        assert_eq!(exchange(&file, mechanism, "ann", "pear"), Err("wrong password"));
        assert_eq!(exchange(&file, mechanism, "eve", "apple"), Err("wrong password"));
        assert!(exchange(&file, mechanism, "a=b", "x").is_err());
    }
}

/// The example of RFC 7677 section 3, with the server's nonce of that example.
#[test]
fn the_keys_are_those_of_the_rfc() {
    let salt = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
    let iterations = NonZeroU32::new(4096).expect("not zero");
    let keys = derive(Mechanism::Sha256, b"pencil", &salt, iterations);
    let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let bare = "n=user,r=rOprNGfwEbeRWgbNEkqO";
    let exchange = ScramExchange {
        mechanism: Mechanism::Sha256,
        user: "user".into(),
        known: true,
        keys,
        binding: "biws".into(),
        nonce: nonce.into(),
        messages: format!("{bare},r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096").into(),
    };
    let proof = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let last = format!("c=biws,r={nonce},p={proof}");
    let (_, answer) = exchange.finish(last.as_bytes()).expect("the RFC's proof is right");
    assert_eq!(answer, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn an_unknown_user_has_the_same_salt_each_time() {
    let file = file(&[("ann", "apple")]);
    let salt = |user: &str| {
        let first = format!("n,,n={user},r=abc");
        let (_, answer) = ScramExchange::begin(&file, Mechanism::Sha256, first.as_bytes())
            .expect("it is answered");
        answer.split_once(",s=").expect("a salt").1.to_owned()
    };
    assert_eq!(salt("eve"), salt("eve"));
    assert_ne!(salt("eve"), salt("bob"));
    assert_eq!(salt("eve").len(), salt("ann").len());
}

#[test]
fn what_is_not_offered_or_malformed_is_refused() {
    let file = file(&[("ann", "apple")]);
    let long = format!("n,,n=ann,r={}", "x".repeat(3000));
    for first in [
        "",
        "n,,",
        "n,,n=,r=x",
        "n,,n=ann,r=",
        "n,,n=ann",
        "p=tls-unique,,n=ann,r=x",
        "n,a=bob,n=ann,r=x",
        "n,,m=x,n=ann,r=x",
        "x",
        &long,
    ] {
        let begun = ScramExchange::begin(&file, Mechanism::Sha256, first.as_bytes());
        assert!(begun.is_err(), "{first}");
    }
    for wrong in ["ann", "ann:x", "ann:SCRAM-SHA-1$1:AAAA$AAAA:AAAA", "ann:SCRAM-SHA-256$0:A$A:A"] {
        assert!(ScramFile::parse(wrong).is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn no_message_makes_it_panic(first in "[nyp=,ar+x]{0,40}", last in "[cprs=,biwAx]{0,60}") {
        let file = file(&[]);
        let _ = ScramExchange::begin(&file, Mechanism::Sha512, first.as_bytes());
        let good = ScramExchange::begin(&file, Mechanism::Sha512, b"n,,n=a,r=x");
        let (exchange, _) = good.expect("it is answered");
        prop_assert!(exchange.finish(last.as_bytes()).is_err());
    }
}

#[test]
fn nothing_tells_unknown_users_from_known_ones() {
    let text = format!("ann:{}", make(b"apple", FEW).expect("there is randomness"));
    let parsed = || ScramFile::parse(&text).expect("it can be read");
    let salts = |file: &ScramFile, user: &str| {
        [Mechanism::Sha256, Mechanism::Sha512].map(|mechanism| {
            let first = format!("n,,n={user},r=fyko+d2lbbFgONRv9qkxdawL");
            let (_, server) =
                ScramExchange::begin(file, mechanism, first.as_bytes()).expect("a user");
            let salt = server.split(',').find_map(|field| field.strip_prefix("s="));
            (salt.expect("it is there").to_owned(), server.split(",i=").nth(1).map(str::to_owned))
        })
    };
    let (one, other) = (parsed(), parsed());
    for user in ["ann", "bob", "cid"] {
        let [small, large] = salts(&one, user);
        assert_ne!(small.0, large.0, "{user}: another salt for each mechanism");
        assert_eq!([small, large], salts(&other, user), "{user}: the same after a reload");
    }
    assert_ne!(salts(&one, "bob"), salts(&one, "cid"));
}
