//! Password hashes as `mosquitto_passwd` and `ringmq passwd` write them, and files of them.
//!
//! - `$6$salt$hash`: SHA-512 of password and salt.
//! - `$7$iterations$salt$hash`: PBKDF2 with HMAC-SHA-512.
//! - `$argon2id$v=19$m=…,t=…,p=…$salt$hash`: RFC 9106, in the PHC notation.
//!
//! Salts and hashes of the first two are in base64. `$7$` and `$argon2id$` are slow on purpose.

use super::chain::{Accepted, Proof, Verdict};
use argon2::password_hash::{PasswordHash, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version};
use aws_lc_rs::{constant_time, digest, pbkdf2, rand};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hashbrown::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

/// Most iterations of PBKDF2 that a file may ask for: about ten seconds.
const MOST_ITERATIONS: u32 = 10_000_000;
/// Most memory of argon2 that a file may ask for, KiB.
const MOST_MEMORY: u32 = 1 << 20;
/// Longest salt or hash, bytes.
const LONGEST: usize = 64;
/// Bytes of a SHA-512 hash.
const SHA512: usize = digest::SHA512_OUTPUT_LEN;
/// Bytes of a new salt.
const SALT: usize = 12;
/// Default iterations of PBKDF2: some milliseconds.
pub const ITERATIONS: u32 = 10_000;

/// The hash of one password.
#[derive(Clone, PartialEq, Eq, std::hash::Hash, Debug)]
pub enum Hash {
    /// `$6$`
    Sha512 {
        /// The salt, which is hashed behind the password.
        salt: Box<[u8]>,
        /// The digest of both.
        hash: Box<[u8]>,
    },
    /// `$7$`
    Pbkdf2 {
        /// The number of iterations.
        iterations: NonZeroU32,
        /// The salt.
        salt: Box<[u8]>,
        /// The derived key.
        hash: Box<[u8]>,
    },
    /// `$argon2id$`, as it stands in the file.
    Argon2(Box<str>),
}

/// How a new hash is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// `$6$`, which a graphics card breaks quickly.
    Sha512,
    /// `$7$` with this number of iterations.
    Pbkdf2(NonZeroU32),
    /// `$argon2id$` with RFC 9106's second choice scaled to 19 MiB, which mosquitto cannot read
    /// before version 2.1.
    Argon2id,
}

/// The system has no random bytes for a salt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRandomness;

impl Hash {
    /// Parses a hash.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn parse(text: &str) -> Result<Hash, &'static str> {
        let bytes = |text: Option<&str>| {
            let bytes = BASE64_STANDARD.decode(text.ok_or("a part of the hash is missing")?);
            let bytes = bytes.map_err(|_| "a part of the hash is not base64")?;
            match bytes.len() {
                1..=LONGEST => Ok(bytes.into_boxed_slice()),
                _ => Err("a part of the hash is empty or too long"),
            }
        };
        let Some(rest) = text.strip_prefix('$') else {
            return Err("the password is not hashed; `ringmq passwd` writes hashes");
        };
        let mut parts = rest.split('$');
        match parts.next() {
            Some("6") => {
                let (salt, hash) = (bytes(parts.next())?, bytes(parts.next())?);
                exactly(hash, SHA512, parts.next()).map(|hash| Hash::Sha512 { salt, hash })
            }
            Some("7") => {
                let iterations = parts.next().and_then(|text| text.parse::<u32>().ok());
                let iterations = iterations.filter(|count| *count <= MOST_ITERATIONS);
                let iterations = iterations.and_then(NonZeroU32::new);
                let iterations = iterations.ok_or("the number of iterations is out of range")?;
                let (salt, hash) = (bytes(parts.next())?, bytes(parts.next())?);
                let hash = exactly(hash, SHA512, parts.next())?;
                Ok(Hash::Pbkdf2 { iterations, salt, hash })
            }
            Some("argon2id") => {
                let hash = PasswordHash::new(text).map_err(|_| "this is no argon2id hash")?;
                let params = Params::try_from(&hash).map_err(|_| "this is no argon2id hash")?;
                if params.m_cost() > MOST_MEMORY || params.t_cost() > 100 || hash.hash.is_none() {
                    return Err("the costs of the argon2id hash are out of range");
                }
                Ok(Hash::Argon2(text.into()))
            }
            _ => Err("the hash is none of $6$, $7$ and $argon2id$"),
        }
    }

    /// Hashes a password with a new salt; returns the notation of the hash.
    ///
    /// # Errors
    /// When there are no random bytes for a salt.
    pub fn make(password: &[u8], scheme: Scheme) -> Result<String, NoRandomness> {
        let mut salt = [0; SALT];
        rand::fill(&mut salt).map_err(|_| NoRandomness)?;
        let shown = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
        Ok(match scheme {
            Scheme::Sha512 => {
                format!("$6${}${}", shown(&salt), shown(sha512(password, &salt).as_ref()))
            }
            Scheme::Pbkdf2(iterations) => {
                let mut hash = [0; SHA512];
                pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, iterations, &salt, password, &mut hash);
                format!("$7${iterations}${}${}", shown(&salt), shown(&hash))
            }
            Scheme::Argon2id => {
                let salt = SaltString::encode_b64(&salt).map_err(|_| NoRandomness)?;
                let hash = argon2id(Params::default()).hash_password(password, &salt);
                hash.map_err(|_| NoRandomness)?.to_string()
            }
        })
    }

    /// Whether this is the hash of `password`. A wrong password takes as long as the right one.
    pub fn is_of(&self, password: &[u8]) -> bool {
        match self {
            Hash::Sha512 { salt, hash } => {
                constant_time::verify_slices_are_equal(sha512(password, salt).as_ref(), hash)
                    .is_ok()
            }
            Hash::Pbkdf2 { iterations, salt, hash } => {
                let algorithm = pbkdf2::PBKDF2_HMAC_SHA512;
                pbkdf2::verify(algorithm, *iterations, salt, password, hash).is_ok()
            }
            Hash::Argon2(text) => PasswordHash::new(text).is_ok_and(|hash| {
                argon2id(Params::default()).verify_password(password, &hash).is_ok()
            }),
        }
    }
}

fn exactly(bytes: Box<[u8]>, length: usize, more: Option<&str>) -> Result<Box<[u8]>, &'static str> {
    match (bytes.len() == length, more) {
        (true, None) => Ok(bytes),
        (false, _) => Err("the hash has not 64 bytes"),
        (_, Some(_)) => Err("the hash has too many parts"),
    }
}

fn argon2id(params: Params) -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn sha512(password: &[u8], salt: &[u8]) -> digest::Digest {
    let mut context = digest::Context::new(&digest::SHA512);
    context.update(password);
    context.update(salt);
    context.finish()
}

/// The users of a password file and their hashes.
#[derive(Debug, Default)]
pub struct PasswordFile {
    users: HashMap<Box<str>, Hash, foldhash::fast::RandomState>,
    /// A hash that the password of an unknown user is compared with, so that the answer takes as
    /// long.
    decoy: Option<Hash>,
    /// For how long a login is remembered.
    remember: Duration,
}

impl PasswordFile {
    /// Parses the text of a file: `user:hash` on each line. Empty lines and lines that begin with
    /// `#` are skipped.
    ///
    /// # Errors
    /// Every line that cannot be read: its number, counted from 1, and why.
    pub fn parse(text: &str) -> Result<PasswordFile, Vec<(usize, String)>> {
        let mut file = PasswordFile::default();
        let mut bad = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let read = match line.split_once(':') {
                None | Some(("", _)) => Err("the line is not user:hash".to_owned()),
                Some((user, hash)) => match Hash::parse(hash) {
                    Ok(_) if file.users.contains_key(user) => {
                        Err(format!("`{user}` is here twice"))
                    }
                    Ok(hash) => Ok((user, hash)),
                    Err(why) => Err(format!("`{user}`: {why}")),
                },
            };
            match read {
                Ok((user, hash)) => _ = file.users.insert(user.into(), hash),
                Err(why) => bad.push((number + 1, why)),
            }
        }
        file.decoy = file.users.values().next().cloned();
        if bad.is_empty() { Ok(file) } else { Err(bad) }
    }

    /// Sets for how long logins are remembered.
    pub fn remembering(self, remember: Duration) -> PasswordFile {
        PasswordFile { remember, ..self }
    }

    /// For how long a login is remembered.
    pub fn remember(&self) -> Duration {
        self.remember
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Whether the user is in the file.
    pub fn knows(&self, user: &str) -> bool {
        self.users.contains_key(user)
    }

    /// A number that changes when the user's hash changes; `None` for an unknown user. The same
    /// hash gives the same number, never 0, as long as the program runs.
    pub fn credential(&self, user: &str) -> Option<u64> {
        use std::hash::BuildHasher;
        let hash = foldhash::quality::FixedState::default().hash_one(self.users.get(user)?);
        Some(hash | 1) // 0 stands for none
    }

    /// The file's verdict about a client. A client without a password counts as having an empty
    /// one.
    pub fn verify(&self, proof: &Proof) -> Verdict {
        let Some(user) = &proof.username else { return Verdict::Unknown };
        let password = proof.password.as_deref().unwrap_or_default();
        match (self.users.get(user), &self.decoy) {
            (Some(hash), _) if hash.is_of(password) => {
                let credential = self.credential(user).unwrap_or(0);
                Verdict::Accept(Box::new(Accepted { credential, ..Accepted::default() }))
            }
            (Some(_), _) => Verdict::Refuse("wrong password"),
            (None, decoy) => {
                if let Some(decoy) = decoy {
                    let _ = std::hint::black_box(decoy.is_of(password));
                }
                Verdict::Unknown
            }
        }
    }
}

#[cfg(test)]
#[path = "password_tests.rs"]
mod tests;
