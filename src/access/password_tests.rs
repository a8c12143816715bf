use super::*;
use crate::ids::Peer;
use proptest::prelude::*;

/// Made by `mosquitto_passwd` 2.0 and by `ringmq passwd`.
const FILE: &str = "\
# users
ann:$7$101$E3v4eal5nYq92zGe$\
NCDFVOLrqpQ5G0F/+js91YA62527hqJHEtvJXx9cYV5XaZao4riArHMyECOgiVVxC5a/xsHpC/PVdTZciF2qrg==
bob:$6$3AawGupu+rYzG5/h$\
bnmwleTsUnrxV0WpV2ji8pV1QLQYMQk2LMsmGIJle7iJOlEqbVgBHMF/M4YU71vTddiVMCfEf/xEe9Kul8CkJw==

dan:$argon2id$v=19$m=19456,t=2,p=1$P0gigulvP/VBo6lE$\
Yh6ufKNXb9ZICb2rll8shH5ibXn6dVXe6F1FQRMEto4
";

fn verdict(file: &PasswordFile, user: Option<&str>, password: Option<&str>) -> Verdict {
    file.verify(&Proof {
        client_id: "c".into(),
        username: user.map(Into::into),
        password: password.map(|text| text.as_bytes().into()),
        peer: Peer::Unix,
        listener: "main".into(),
        identity: None,
        attributes: Box::default(),
    })
}

#[test]
fn hashes_of_mosquitto_and_of_ours_are_read() {
    let file = PasswordFile::parse(FILE).expect("it can be read");
    assert_eq!(file.len(), 3);
    for (user, password) in [("ann", "apple"), ("bob", "banana"), ("dan", "date")] {
        let right = verdict(&file, Some(user), Some(password));
        assert!(matches!(right, Verdict::Accept(_)), "{user}");
        for wrong in [None, Some(""), Some("applE"), Some("apple ")] {
            let wrong = verdict(&file, Some(user), wrong);
            assert!(matches!(wrong, Verdict::Refuse(_)), "{user}");
        }
    }
    assert!(matches!(verdict(&file, Some("eve"), Some("apple")), Verdict::Unknown));
    assert!(matches!(verdict(&file, None, Some("apple")), Verdict::Unknown));
}

#[test]
fn what_is_made_is_read_again() {
    let few = NonZeroU32::new(10).expect("not zero");
    for scheme in [Scheme::Sha512, Scheme::Pbkdf2(few), Scheme::Argon2id] {
        let one = Hash::make(b"secret", scheme).expect("there is randomness");
        let two = Hash::make(b"secret", scheme).expect("there is randomness");
        assert_ne!(one, two, "each has a salt of its own");
        let hash = Hash::parse(&one).expect("it can be read");
        assert!(hash.is_of(b"secret") && !hash.is_of(b"secret "), "{one}");
    }
}

#[test]
fn lines_that_are_no_users_are_named() {
    let long = format!("a:$7$11$AAAA${}", "A".repeat(88));
    for wrong in [
        "ann",
        ":x",
        "ann:apple",
        "ann:",
        "ann:$5$AAAA$AAAA",
        "ann:$6$AAAA$AAAA",
        "ann:$6$$AAAA",
        "ann:$7$0$AAAA$AAAA",
        "ann:$7$99999999$AAAA$AAAA",
        "ann:$argon2id$v=19$m=99999999,t=2,p=1$P0gigulvP/VBo6lE$Yh6ufKNXb9ZICb2rll8shH5",
        &long,
    ] {
        let text = format!("# x\n{wrong}\n");
        let bad = PasswordFile::parse(&text).expect_err(wrong);
        assert_eq!(bad.len(), 1, "{wrong}");
        assert_eq!(bad[0].0, 2, "{wrong}");
    }
    let twice = format!("{FILE}{}", FILE.lines().nth(1).expect("a line"));
    assert!(PasswordFile::parse(&twice).is_err());
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "[$:a-zA-Z0-9=,\n ]{0,200}") {
        let _ = PasswordFile::parse(&text);
        let _ = Hash::parse(&text);
    }
}
