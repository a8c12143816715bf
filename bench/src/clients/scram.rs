//! The client's side of SCRAM (RFC 5802, RFC 7677) as MQTT 5 carries it in CONNECT and AUTH (4.12).
//! All clients of a run have one password; the slow derivation is made once for each salt, as
//! clients do that keep the derived key (RFC 5802, 3).

use crate::mqtt::{AuthData, Malformed};
use aws_lc_rs::{digest, hmac, pbkdf2, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::collections::HashMap;
use std::num::NonZeroU32;

/// The hash of an exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mechanism {
    /// SCRAM-SHA-256
    Sha256,
    /// SCRAM-SHA-512
    Sha512,
}

impl Mechanism {
    /// The mechanism with this Authentication Method.
    pub fn parse(name: &str) -> Result<Mechanism, String> {
        match name {
            "SCRAM-SHA-256" => Ok(Mechanism::Sha256),
            "SCRAM-SHA-512" => Ok(Mechanism::Sha512),
            _ => Err("SCRAM-SHA-256 or SCRAM-SHA-512".into()),
        }
    }

    /// The Authentication Method of CONNECT.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Sha256 => "SCRAM-SHA-256",
            Mechanism::Sha512 => "SCRAM-SHA-512",
        }
    }

    fn sign(self, key: &[u8], text: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Mechanism::Sha256 => hmac::HMAC_SHA256,
            Mechanism::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), text).as_ref().to_vec()
    }

    fn hash(self, bytes: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Mechanism::Sha256 => &digest::SHA256,
            Mechanism::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, bytes).as_ref().to_vec()
    }

    fn salted(self, password: &str, salt: &[u8], iterations: NonZeroU32) -> Vec<u8> {
        let (algorithm, length) = match self {
            Mechanism::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, digest::SHA256_OUTPUT_LEN),
            Mechanism::Sha512 => (pbkdf2::PBKDF2_HMAC_SHA512, digest::SHA512_OUTPUT_LEN),
        };
        let mut salted = vec![0; length];
        pbkdf2::derive(algorithm, iterations, salt, password.as_bytes(), &mut salted);
        salted
    }
}

/// What is derived from the password for a salt (RFC 5802, 3).
struct Keys {
    client: Vec<u8>,
    server: Vec<u8>,
}

/// How far a client's exchange has come.
enum ExchangeStage {
    /// Its first message without the header.
    Greeted(String),
    /// What the broker must answer to show that it knows the password, too.
    Proved(Vec<u8>),
}

/// The exchanges of the clients under way.
pub struct Scram {
    mechanism: Mechanism,
    password: String,
    /// By salt and iterations.
    keys: HashMap<(Vec<u8>, NonZeroU32), Keys>,
    stages: HashMap<u32, ExchangeStage>,
}

impl Scram {
    /// For clients that prove this password.
    pub fn new(mechanism: Mechanism, password: String) -> Scram {
        Scram { mechanism, password, keys: HashMap::new(), stages: HashMap::new() }
    }

    /// The Authentication Method and the data of `client`'s CONNECT.
    pub fn begin(&mut self, client: u32, user: &str) -> AuthData {
        let mut random = [0; 18];
        rand::fill(&mut random).expect("the system has random bytes");
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let bare = format!("n={user},r={}", BASE64.encode(random));
        let data = format!("n,,{bare}").into_bytes();
        self.stages.insert(client, ExchangeStage::Greeted(bare));
        AuthData { method: self.mechanism.name(), data }
    }

    /// The answer to the broker's first message.
    pub fn prove(&mut self, client: u32, said: &[u8]) -> Result<AuthData, Malformed> {
        let Some(ExchangeStage::Greeted(bare)) = self.stages.remove(&client) else {
            return Err(Malformed);
        };
        let said = std::str::from_utf8(said).map_err(|_| Malformed)?;
        let field = |name: &str| {
            said.split(',').find_map(|field| field.strip_prefix(name)).ok_or(Malformed)
        };
        let nonce = field("r=")?;
        let own = bare.rsplit_once("r=").map_or("", |(_, nonce)| nonce);
        if !nonce.starts_with(own) {
            return Err(Malformed);
        }
        let salt = BASE64.decode(field("s=")?).map_err(|_| Malformed)?;
        let iterations = field("i=")?.parse().map_err(|_| Malformed)?;
        let (mechanism, password) = (self.mechanism, &self.password);
        let keys = self.keys.entry((salt, iterations)).or_insert_with_key(|(salt, iterations)| {
            let salted = mechanism.salted(password, salt, *iterations);
            let sign = |text: &[u8]| mechanism.sign(&salted, text);
            Keys { client: sign(b"Client Key"), server: sign(b"Server Key") }
        });
        let without = format!("c={},r={nonce}", BASE64.encode("n,,"));
        let signed = format!("{bare},{said},{without}");
        let signature = mechanism.sign(&mechanism.hash(&keys.client), signed.as_bytes());
        let proof: Vec<u8> = keys.client.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let answer = mechanism.sign(&keys.server, signed.as_bytes());
        self.stages.insert(client, ExchangeStage::Proved(answer));
        let data = format!("{without},p={}", BASE64.encode(proof)).into_bytes();
        Ok(AuthData { method: mechanism.name(), data })
    }

    /// Whether the broker's last message, of CONNACK, shows that it knows the password.
    pub fn is_answered(&mut self, client: u32, said: &[u8]) -> bool {
        let Some(ExchangeStage::Proved(answer)) = self.stages.remove(&client) else { return false };
        said == format!("v={}", BASE64.encode(answer)).as_bytes()
    }

    /// The connection of `client` has ended.
    pub fn forget(&mut self, client: u32) {
        self.stages.remove(&client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, 3.
    #[test]
    fn the_example_of_the_rfc() {
        let mut scram = Scram::new(Mechanism::Sha256, "pencil".into());
        let bare = "n=user,r=rOprNGfwEbeRWgbNEkqO".to_owned();
        scram.stages.insert(7, ExchangeStage::Greeted(bare));
        let said = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                     s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let answer = scram.prove(7, said).expect("it belongs to it");
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(String::from_utf8(answer.data).unwrap(), expected);
        assert!(scram.is_answered(7, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        // It is asked once.
        assert!(!scram.is_answered(7, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
    }

    #[test]
    fn a_broker_that_does_not_know_the_password_is_found_out() {
        let mut scram = Scram::new(Mechanism::Sha512, "pencil".into());
        let AuthData { method, data } = scram.begin(1, "a=b,c");
        assert_eq!(method, "SCRAM-SHA-512");
        let text = String::from_utf8(data).unwrap();
        let nonce = text.strip_prefix("n,,n=a=3Db=2Cc,r=").expect("it is escaped");
        assert!(scram.prove(1, b"r=another,s=c2FsdA==,i=1").is_err());
        scram.begin(1, "u");
        assert!(scram.prove(1, format!("r={nonce}x,s=c2FsdA==,i=1").as_bytes()).is_err());
        let text = String::from_utf8(scram.begin(1, "u").data).unwrap();
        let nonce = text.strip_prefix("n,,n=u,r=").unwrap();
        for wrong in ["s=c2FsdA==,i=0", "s=c2FsdA==", "i=1", "s=%,i=1"] {
            let mut other = Scram::new(Mechanism::Sha512, String::new());
            other.stages.insert(1, ExchangeStage::Greeted(format!("n=u,r={nonce}")));
            assert!(other.prove(1, format!("r={nonce}x,{wrong}").as_bytes()).is_err(), "{wrong}");
        }
        scram.prove(1, format!("r={nonce}x,s=c2FsdA==,i=1").as_bytes()).expect("it is well made");
        assert!(!scram.is_answered(1, b"v=AAAA"));
        scram.begin(1, "u");
        scram.forget(1);
        assert!(!scram.is_answered(1, b""));
    }
}
