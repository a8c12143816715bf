//! Password hashes in the forms that databases made for EMQX have: a digest of password and salt in
//! hexadecimal, bcrypt, or PBKDF2.

use crate::config::{self, Get, HashName, MacFunction, SaltPosition};
use aws_lc_rs::{constant_time, digest, pbkdf2};
use md5::Md5;
use md5::digest::Digest;
use sha1::Sha1;
use std::num::NonZeroU32;

/// How the hashes of a database are made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hashing {
    name: HashName,
    salt: SaltPosition,
    mac: MacFunction,
    iterations: NonZeroU32,
    /// Bytes of a PBKDF2 hash; 0 for the output length of its function.
    length: usize,
}

impl Hashing {
    /// Reads the section `password_hash_algorithm`.
    pub fn new(section: &config::PasswordHash) -> Hashing {
        Hashing {
            name: section.name,
            salt: section.salt_position,
            mac: section.mac_fun,
            iterations: NonZeroU32::new(section.iterations.get()).unwrap_or(NonZeroU32::MIN),
            length: section.dk_length.get() as usize,
        }
    }

    /// Whether `hash` with this salt is that of the password. Takes up to some hundred
    /// milliseconds.
    pub fn is_of(&self, hash: &str, salt: &str, password: &[u8]) -> bool {
        let same = |computed: &[u8]| {
            let known = from_hex(hash);
            known.is_some_and(|known| {
                constant_time::verify_slices_are_equal(computed, &known).is_ok()
            })
        };
        let salted = || match self.salt {
            SaltPosition::Disable => password.to_vec(),
            SaltPosition::Prefix => [salt.as_bytes(), password].concat(),
            SaltPosition::Suffix => [password, salt.as_bytes()].concat(),
        };
        match self.name {
            HashName::Plain => {
                constant_time::verify_slices_are_equal(&salted(), hash.as_bytes()).is_ok()
            }
            HashName::Md5 => same(&Md5::digest(salted())),
            HashName::Sha => same(&Sha1::digest(salted())),
            HashName::Sha256 => same(digest::digest(&digest::SHA256, &salted()).as_ref()),
            HashName::Sha512 => same(digest::digest(&digest::SHA512, &salted()).as_ref()),
            // A bcrypt hash contains its salt.
            HashName::Bcrypt => bcrypt::verify(password, hash).unwrap_or(false),
            HashName::Pbkdf2 => {
                let (algorithm, length) = match self.mac {
                    MacFunction::Sha => (pbkdf2::PBKDF2_HMAC_SHA1, 20),
                    MacFunction::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, 32),
                    MacFunction::Sha384 => (pbkdf2::PBKDF2_HMAC_SHA384, 48),
                    MacFunction::Sha512 => (pbkdf2::PBKDF2_HMAC_SHA512, 64),
                };
                let mut computed = vec![0; if self.length > 0 { self.length } else { length }];
                let salt = salt.as_bytes();
                pbkdf2::derive(algorithm, self.iterations, salt, password, &mut computed);
                same(&computed)
            }
        }
    }
}

/// The bytes of a hexadecimal text, in either case; `None` when it is malformed or empty.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| match pair {
            [high, low] => Some((digit(high)? << 4 | digit(low)?) as u8),
            _ => None,
        })
        .collect();
    bytes.filter(|bytes| !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Count;

    fn hashing(name: HashName, salt_position: SaltPosition) -> Hashing {
        Hashing::new(&config::PasswordHash { name, salt_position, ..Default::default() })
    }

    /// What coreutils print.
    #[test]
    fn digests_have_the_salt_where_it_is_said_to_be() {
        let of = |name, position, hash: &str, salt| {
            let hashing = hashing(name, position);
            assert!(!hashing.is_of(hash, salt, b"wrong"));
            hashing.is_of(hash, salt, b"secret")
        };
        let sha256 = "bede90386d450cea8b77b822f8887065e4e5abf132c2f9dccfcc7fbd4cba5e35";
        assert!(of(HashName::Sha256, SaltPosition::Prefix, sha256, "salt"));
        assert!(of(HashName::Sha256, SaltPosition::Prefix, &sha256.to_uppercase(), "salt"));
        assert!(!of(HashName::Sha256, SaltPosition::Suffix, sha256, "salt"));
        let md5 = "5ebe2294ecd0e0f08eab7690d2a6ee69"; // of "secret"
        assert!(of(HashName::Md5, SaltPosition::Disable, md5, "ignored"));
        let sha = "e5e9fa1ba31ecd1ae84f75caaa474f3a663f05f4";
        assert!(of(HashName::Sha, SaltPosition::Disable, sha, ""));
        assert!(of(HashName::Plain, SaltPosition::Suffix, "secretsalt", "salt"));
        for no_hash in ["", "x", "ab", "5ebe2294ecd0e0f08eab7690d2a6ee6"] {
            assert!(!of(HashName::Md5, SaltPosition::Disable, no_hash, ""), "{no_hash}");
        }
    }

    #[test]
    fn slow_hashes_are_known() {
        let bcrypt = bcrypt::hash("secret", 4).expect("it can be hashed");
        let known = hashing(HashName::Bcrypt, SaltPosition::Prefix);
        assert!(known.is_of(&bcrypt, "", b"secret") && !known.is_of(&bcrypt, "", b"wrong"));
        assert!(!known.is_of("no hash", "", b"secret"));
        // RFC 6070, the second test vector.
        let section = config::PasswordHash {
            name: HashName::Pbkdf2,
            mac_fun: MacFunction::Sha,
            iterations: Count::of(2),
            ..Default::default()
        };
        let hash = "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957";
        assert!(Hashing::new(&section).is_of(hash, "salt", b"password"));
        let cut = config::PasswordHash { dk_length: Count::of(8), ..section };
        assert!(Hashing::new(&cut).is_of(&hash[..16], "salt", b"password"));
    }
}
