//! SCRAM-SHA-256 and SCRAM-SHA-512 (RFC 5802, RFC 7677) as enhanced authentication of MQTT 5: the
//! server's side of one exchange, and files of stored keys. An exchange costs the server a few
//! hashes; the expensive part is the client's. There is no channel binding.

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2, rand};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hashbrown::HashMap;
use std::num::NonZeroU32;

/// Iterations of new keys: the least that RFC 7677 allows.
pub const ITERATIONS: u32 = 4096;
/// Longest message of a client, bytes.
const LONGEST: usize = 2048;
/// Bytes of salts and of the server's part of a nonce.
const RANDOM: usize = 18;

/// A SCRAM mechanism.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mechanism {
    /// SCRAM-SHA-256.
    Sha256,
    /// SCRAM-SHA-512.
    Sha512,
}

impl Mechanism {
    /// Both mechanisms.
    pub const ALL: [Mechanism; 2] = [Mechanism::Sha256, Mechanism::Sha512];

    /// Its registered name, which is the Authentication Method.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Sha256 => "SCRAM-SHA-256",
            Mechanism::Sha512 => "SCRAM-SHA-512",
        }
    }

    /// From its name.
    pub fn of_name(name: &str) -> Option<Mechanism> {
        Mechanism::ALL.into_iter().find(|mechanism| mechanism.name() == name)
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Mechanism::Sha256 => hmac::HMAC_SHA256,
            Mechanism::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Mechanism::Sha256 => &digest::SHA256,
            Mechanism::Sha512 => &digest::SHA512,
        }
    }

    fn length(self) -> usize {
        self.digest().output_len()
    }

    fn sign(self, key: &[u8], text: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(self.hmac(), key), text).as_ref().to_vec()
    }

    fn hash(self, bytes: &[u8]) -> Vec<u8> {
        digest::digest(self.digest(), bytes).as_ref().to_vec()
    }
}

/// What the server stores for one user and mechanism. The password can be found from these keys
/// only by trying.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScramKeys {
    iterations: u32,
    salt: Box<[u8]>,
    stored: Box<[u8]>,
    server: Box<[u8]>,
}

impl ScramKeys {
    /// Parses `iterations:salt$stored_key:server_key`, the last three in base64.
    fn parse(mechanism: Mechanism, text: &str) -> Option<ScramKeys> {
        let (cost, keys) = text.split_once('$')?;
        let (iterations, salt) = cost.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        let bytes = |text: &str| BASE64_STANDARD.decode(text).ok().map(Vec::into_boxed_slice);
        let keys = ScramKeys {
            iterations: iterations.parse().ok().filter(|count| *count > 0)?,
            salt: bytes(salt).filter(|salt| (1..=64).contains(&salt.len()))?,
            stored: bytes(stored)?,
            server: bytes(server)?,
        };
        let length = mechanism.length();
        (keys.stored.len() == length && keys.server.len() == length).then_some(keys)
    }
}

/// The keys of a password for both mechanisms, as a file has them behind the user's name:
/// `SCRAM-SHA-256$iterations:salt$stored_key:server_key`, a comma, and those of the other.
///
/// # Errors
/// When the system has no random bytes.
pub fn make(
    password: &[u8],
    iterations: NonZeroU32,
) -> Result<String, super::password::NoRandomness> {
    let mut parts = Vec::new();
    for mechanism in Mechanism::ALL {
        let mut salt = [0; RANDOM];
        rand::fill(&mut salt).map_err(|_| super::password::NoRandomness)?;
        let keys = derive(mechanism, password, &salt, iterations);
        let shown = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
        parts.push(format!(
            "{}${iterations}:{}${}:{}",
            mechanism.name(),
            shown(&keys.salt),
            shown(&keys.stored),
            shown(&keys.server)
        ));
    }
    Ok(parts.join(","))
}

fn derive(mechanism: Mechanism, password: &[u8], salt: &[u8], iterations: NonZeroU32) -> ScramKeys {
    let algorithm = match mechanism {
        Mechanism::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
        Mechanism::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
    };
    let mut salted = vec![0; mechanism.length()];
    pbkdf2::derive(algorithm, iterations, salt, password, &mut salted);
    let client = mechanism.sign(&salted, b"Client Key");
    ScramKeys {
        iterations: iterations.get(),
        salt: salt.into(),
        stored: mechanism.hash(&client).into(),
        server: mechanism.sign(&salted, b"Server Key").into(),
    }
}

/// Users and their keys.
#[derive(Debug)]
pub struct ScramFile {
    users: HashMap<(Box<str>, Mechanism), ScramKeys, foldhash::fast::RandomState>,
    /// The secret that the salt of an unknown user is derived from. The salt is the same each time,
    /// so that a client cannot tell which users exist.
    secret: Box<[u8]>,
}

impl ScramFile {
    /// Parses the text of a file: `user:keys` on each line, as [`make`] writes them.
    ///
    /// # Errors
    /// Every line that cannot be read: its number, counted from 1, and why.
    pub fn parse(text: &str) -> Result<ScramFile, Vec<(usize, String)>> {
        // From all keys of all users: nobody can compute it without the file, and it stays the
        // same while the file does, over reloads and restarts.
        let secret = Mechanism::Sha512.hash(text.as_bytes()).into();
        let mut file = ScramFile { users: HashMap::default(), secret };
        let mut bad = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty()
                && !line.starts_with('#')
                && let Err(why) = file.line(line)
            {
                bad.push((number + 1, why));
            }
        }
        if bad.is_empty() { Ok(file) } else { Err(bad) }
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let parts = line.split_once(':').filter(|(user, _)| !user.is_empty());
        let (user, all) = parts.ok_or("the line is not user:keys")?;
        for part in all.split(',') {
            let (name, keys) = part.split_once('$').ok_or("the line is not user:keys")?;
            let mechanism = Mechanism::of_name(name);
            let mechanism = mechanism.ok_or_else(|| format!("`{name}` is no mechanism"))?;
            let keys = ScramKeys::parse(mechanism, keys);
            let keys = keys.ok_or_else(|| format!("the keys of `{user}` cannot be read"))?;
            if self.users.insert((user.into(), mechanism), keys).is_some() {
                return Err(format!("`{user}` is here twice"));
            }
        }
        Ok(())
    }

    /// The keys of a user and true; for an unknown user, keys that no proof fits, and false.
    fn keys(&self, user: &str, mechanism: Mechanism) -> (ScramKeys, bool) {
        if let Some(keys) = self.users.get(&(user.into(), mechanism)) {
            return (keys.clone(), true);
        }
        // Known users have another salt for each mechanism, so unknown ones have, too.
        let text = [mechanism.name().as_bytes(), b" ", user.as_bytes()].concat();
        let hash = Mechanism::Sha512.sign(&self.secret, &text);
        let (salt, rest) = hash.split_at_checked(RANDOM).unwrap_or((&hash, &[]));
        let some = self.users.iter().find(|((_, other), _)| *other == mechanism);
        let iterations = some.map_or(ITERATIONS, |(_, keys)| keys.iterations);
        let key: Box<[u8]> = mechanism.hash(rest).into();
        (ScramKeys { iterations, salt: salt.into(), stored: key.clone(), server: key }, false)
    }
}

/// An exchange in which the server has sent its first message.
#[derive(Debug)]
pub struct ScramExchange {
    mechanism: Mechanism,
    user: Box<str>,
    known: bool,
    keys: ScramKeys,
    /// The GS2 header in base64, which the client repeats.
    binding: Box<str>,
    nonce: Box<str>,
    /// The client's first message without its header, and the server's first.
    messages: Box<str>,
}

/// Why an exchange ends.
pub type ScramFailure = &'static str;

impl ScramExchange {
    /// Takes the client's first message; returns the server's.
    ///
    /// # Errors
    /// When the message cannot be answered.
    pub fn begin(
        file: &ScramFile,
        mechanism: Mechanism,
        data: &[u8],
    ) -> Result<(ScramExchange, String), ScramFailure> {
        let text = message(data)?;
        let mut parts = text.splitn(3, ',');
        let (flag, name) = (parts.next().unwrap_or_default(), parts.next());
        let (name, bare) = name.zip(parts.next()).ok_or("no SCRAM message")?;
        match flag {
            "n" | "y" => {}
            _ => return Err("channel binding is not offered"),
        }
        if !name.is_empty() {
            return Err("another identity is not offered");
        }
        let mut fields = bare.split(',');
        let user = fields.next().and_then(|field| field.strip_prefix("n="));
        let user = unescaped(user.ok_or("a SCRAM message without user")?)?;
        let nonce = fields.next().and_then(|field| field.strip_prefix("r="));
        let nonce = nonce.filter(|nonce| !nonce.is_empty()).ok_or("a message without nonce")?;
        let mut random = [0; RANDOM];
        rand::fill(&mut random).map_err(|_| "the system has no random bytes")?;
        let nonce = format!("{nonce}{}", BASE64_STANDARD.encode(random));
        let (keys, known) = file.keys(&user, mechanism);
        let salt = BASE64_STANDARD.encode(&keys.salt);
        let answer = format!("r={nonce},s={salt},i={}", keys.iterations);
        let exchange = ScramExchange {
            mechanism,
            user: user.into(),
            known,
            keys,
            binding: BASE64_STANDARD.encode(format!("{flag},,")).into(),
            nonce: nonce.into(),
            messages: format!("{bare},{answer}").into(),
        };
        Ok((exchange, answer))
    }

    /// The mechanism of the exchange.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Takes the client's last message; returns the user and the server's last message.
    ///
    /// # Errors
    /// When the message is malformed or the client does not know the password.
    pub fn finish(self, data: &[u8]) -> Result<(Box<str>, String), ScramFailure> {
        const WRONG: ScramFailure = "wrong password";
        let text = message(data)?;
        let (without, proof) = text.rsplit_once(",p=").ok_or("a SCRAM message without proof")?;
        let mut fields = without.split(',');
        let binding = fields.next().and_then(|field| field.strip_prefix("c="));
        let nonce = fields.next().and_then(|field| field.strip_prefix("r="));
        if binding != Some(&self.binding) || nonce != Some(&self.nonce) {
            return Err("the SCRAM messages do not belong together");
        }
        let proof = BASE64_STANDARD.decode(proof).map_err(|_| "the proof is not base64")?;
        let signed = format!("{},{without}", self.messages);
        let signature = self.mechanism.sign(&self.keys.stored, signed.as_bytes());
        if proof.len() != signature.len() {
            return Err(WRONG);
        }
        let key: Vec<u8> = proof.iter().zip(&signature).map(|(one, other)| one ^ other).collect();
        let stored = self.mechanism.hash(&key);
        let same = constant_time::verify_slices_are_equal(&stored, &self.keys.stored).is_ok();
        if !same || !self.known {
            return Err(WRONG);
        }
        let verifier = self.mechanism.sign(&self.keys.server, signed.as_bytes());
        Ok((self.user, format!("v={}", BASE64_STANDARD.encode(verifier))))
    }
}

fn message(data: &[u8]) -> Result<&str, ScramFailure> {
    let text = Some(data).filter(|data| data.len() <= LONGEST);
    text.and_then(|data| std::str::from_utf8(data).ok()).ok_or("no SCRAM message")
}

/// Decodes a user name, in which `=2C` is a comma and `=3D` an equals sign.
fn unescaped(text: &str) -> Result<String, ScramFailure> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('=') {
        out.push_str(before);
        let (letter, after) = match (after.strip_prefix("2C"), after.strip_prefix("3D")) {
            (Some(after), _) => (',', after),
            (_, Some(after)) => ('=', after),
            _ => return Err("the user name of a SCRAM message is malformed"),
        };
        out.push(letter);
        rest = after;
    }
    out.push_str(rest);
    if out.is_empty() { Err("a SCRAM message without user") } else { Ok(out) }
}

#[cfg(test)]
#[path = "scram_tests.rs"]
mod tests;
