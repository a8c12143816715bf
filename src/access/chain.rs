//! Authentication: the methods, the credentials that they get, and their verdicts. Owns no thread
//! and no connection: what takes long is done elsewhere.

use super::http::HttpAuthService;
use super::jwt::Jwt;
use super::keys::KeySet;
use super::lookup::{Lookup, Row};
use super::password::PasswordFile;
use super::rule::RuleSet;
use super::scram::{Mechanism, ScramFile};
use super::{Access, Identity};
use crate::config::CertificateName;
use crate::ids::Peer;
use crate::mutant::Mutant;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The credentials in a client's CONNECT, and what else is known of the client.
#[derive(Clone, Debug)]
pub struct Proof {
    /// Its ClientId, its own or one that the broker has assigned.
    pub client_id: Box<str>,
    /// User name.
    pub username: Option<Box<str>>,
    /// Password: any bytes.
    pub password: Option<Box<[u8]>>,
    /// Its address.
    pub peer: Peer,
    /// The name of its listener.
    pub listener: Arc<str>,
    /// Its certificate.
    pub identity: Option<Arc<Identity>>,
    /// Attributes that authentication has found; empty before.
    pub attributes: Box<[(Box<str>, Box<str>)]>,
}

/// What a method of authentication says of a client that it accepts.
#[derive(Clone, Default, Debug)]
pub struct Accepted {
    /// The client's user name, when it is not the one in its CONNECT.
    pub username: Option<Box<str>>,
    /// True when no rule of the configuration applies to the client.
    pub superuser: bool,
    /// Milliseconds until the client has to authenticate again; `None` for never.
    pub lasts: Option<u64>,
    /// The client's own rules.
    pub rules: Option<Box<RuleSet>>,
    /// The method of enhanced authentication, and the server's last message.
    pub exchanged: Option<Box<(Mechanism, String)>>,
    /// Attributes, by name, that rules can demand.
    pub attributes: Box<[(Box<str>, Box<str>)]>,
    /// A number of the client's credentials, by which a reload finds out whether they are still
    /// right. 0 when a reload does not check them.
    pub credential: u64,
}

/// A method's verdict about a client.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The client is who it says it is.
    Accept(Box<Accepted>),
    /// The client is not; the reason in words.
    Refuse(&'static str),
    /// The method does not know: the next one is asked.
    Unknown,
    /// The method could not find out, and no other method is to be asked; the reason in words.
    Failed(&'static str),
}

/// Where an answer that takes long is worked out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WorkPlace {
    /// On a thread for hashing, since it is computation only.
    Hash,
    /// On the thread that talks to services.
    Service,
}

/// The answer of a service, with which a thread for hashing goes on.
#[derive(Clone, Debug, Default)]
pub enum ServiceFinding {
    /// No service was asked.
    #[default]
    Nothing,
    /// The keys in force.
    Keys(Arc<KeySet>),
    /// The columns of a user; `None` when there is no such user.
    Row(Option<Row>),
}

/// Whether a method can answer at once.
#[derive(Clone, Debug)]
pub enum Answered {
    /// Yes: this is its verdict.
    Now(Verdict),
    /// No: the verdict has to be worked out, by [`Access::work_out`].
    Later(WorkPlace),
}

/// A method of authentication.
#[derive(Debug)]
pub enum Method {
    /// Hashes of passwords.
    PasswordFile(PasswordFile),
    /// The client certificate, with the part of it that is the user name.
    Certificate(CertificateName),
    /// A JSON Web Token.
    Jwt(Box<Jwt>),
    /// An HTTP service.
    Http(Arc<HttpAuthService>),
    /// Enhanced authentication. As a part of the chain it knows no client.
    Scram(ScramFile),
    /// Users in Redis.
    Redis(Arc<Lookup>),
    /// Users in PostgreSQL.
    Postgres(Arc<Lookup>),
}

/// Kinds of methods, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MethodKind {
    /// [`Method::PasswordFile`].
    PasswordFile,
    /// [`Method::Certificate`].
    Certificate,
    /// [`Method::Jwt`].
    Jwt,
    /// [`Method::Http`].
    Http,
    /// [`Method::Scram`].
    Scram,
    /// [`Method::Redis`].
    Redis,
    /// [`Method::Postgres`].
    Postgres,
}

impl Accepted {
    /// Approximate bytes of memory besides those of the value itself.
    pub fn size(&self) -> usize {
        let texts = self.attributes.iter().map(|(name, text)| name.len() + text.len());
        texts.sum::<usize>() + self.rules.as_ref().map_or(0, |rules| rules.size())
    }
}

impl Method {
    /// For how long a login is remembered; zero for not at all.
    pub fn remember(&self) -> Duration {
        match self {
            Method::PasswordFile(file) => file.remember(),
            Method::Http(service) => service.remember,
            Method::Redis(users) | Method::Postgres(users) => users.remember,
            Method::Certificate(_) | Method::Jwt(_) | Method::Scram(_) => Duration::ZERO,
        }
    }

    /// Everything that a remembered login depends on, as one unambiguous string of bytes: the
    /// method's position `at`, and what the method is shown of the client. The client's port is not
    /// part of it.
    pub fn shown(&self, at: usize, proof: &Proof) -> Vec<u8> {
        let mut all = vec![at as u8];
        let mut add = |text: Option<&[u8]>| {
            let length = text.map_or(u32::MAX, |text| text.len() as u32);
            all.extend(length.to_le_bytes());
            all.extend(text.unwrap_or_default());
        };
        add(proof.username.as_ref().map(|name| name.as_bytes()));
        if !Mutant::LoginOfAnyPassword.is_on() {
            add(proof.password.as_deref());
        }
        if matches!(self, Method::PasswordFile(_)) {
            return all;
        }
        add(Some(proof.client_id.as_bytes()));
        add(Some(proof.listener.as_bytes()));
        match proof.peer {
            Peer::Tcp(IpAddr::V4(ip), _) => add(Some(&ip.octets())),
            Peer::Tcp(IpAddr::V6(ip), _) => add(Some(&ip.octets())),
            Peer::Unix => add(None),
        }
        if let Some(identity) = &proof.identity {
            add(Some(identity.common_name.as_bytes()));
            add(Some(identity.alternative_name.as_bytes()));
            add(Some(identity.subject.as_bytes()));
        }
        all
    }

    /// Its kind.
    pub fn kind(&self) -> MethodKind {
        match self {
            Method::PasswordFile(_) => MethodKind::PasswordFile,
            Method::Certificate(_) => MethodKind::Certificate,
            Method::Jwt(_) => MethodKind::Jwt,
            Method::Http(_) => MethodKind::Http,
            Method::Scram(_) => MethodKind::Scram,
            Method::Redis(_) => MethodKind::Redis,
            Method::Postgres(_) => MethodKind::Postgres,
        }
    }

    fn begin(&self, proof: &Proof) -> Answered {
        match self {
            Method::PasswordFile(_) if proof.username.is_none() => Answered::Now(Verdict::Unknown),
            Method::PasswordFile(_) => Answered::Later(WorkPlace::Hash),
            Method::Jwt(jwt) if jwt.token(proof).is_none() => Answered::Now(Verdict::Unknown),
            Method::Jwt(jwt) if jwt.source().is_some() => Answered::Later(WorkPlace::Service),
            Method::Jwt(_) => Answered::Later(WorkPlace::Hash),
            // A client without a user name cannot be found in a database of users.
            Method::Redis(_) | Method::Postgres(_) if proof.username.is_none() => {
                Answered::Now(Verdict::Unknown)
            }
            Method::Redis(_) | Method::Postgres(_) => Answered::Later(WorkPlace::Service),
            Method::Http(_) => Answered::Later(WorkPlace::Service),
            Method::Scram(_) => Answered::Now(Verdict::Unknown),
            Method::Certificate(part) => {
                let name = proof.identity.as_ref().and_then(|identity| identity.name(*part));
                Answered::Now(name.map_or(Verdict::Unknown, |name| {
                    let username = Some(name.into());
                    Verdict::Accept(Box::new(Accepted { username, ..Accepted::default() }))
                }))
            }
        }
    }
}

impl Access {
    /// Asks the method at position `at`; `None` when there is no such method.
    pub fn begin(&self, at: usize, proof: &Proof) -> Option<Answered> {
        self.methods.get(at).map(|method| method.begin(proof))
    }

    /// Whether the password that a user has shown is still the one in a password file. True for a
    /// client that was not accepted by a password file.
    pub fn still_knows(&self, username: Option<&str>, credential: u64) -> bool {
        let same = |method: &Method| match method {
            Method::PasswordFile(file) => {
                username.and_then(|name| file.credential(name)) == Some(credential)
            }
            _ => false,
        };
        credential == 0 || self.methods.iter().any(same)
    }

    /// The file for enhanced authentication, and its position in the chain.
    pub fn scram(&self) -> Option<(usize, &ScramFile)> {
        self.methods.iter().enumerate().find_map(|(at, method)| match method {
            Method::Scram(file) => Some((at, file)),
            _ => None,
        })
    }

    /// Works out the verdict of the method at position `at` from what a service has answered; `now`
    /// in seconds since 1970. It takes up to some hundred milliseconds, so it must never run on a
    /// shard's thread.
    pub fn work_out(
        &self,
        at: usize,
        proof: &Proof,
        finding: &ServiceFinding,
        now: u64,
    ) -> Verdict {
        match (self.methods.get(at), finding) {
            (Some(Method::PasswordFile(file)), _) => file.verify(proof),
            (Some(Method::Jwt(jwt)), ServiceFinding::Keys(set)) => {
                jwt.verify(proof, Some(set), now)
            }
            (Some(Method::Jwt(jwt)), _) => jwt.verify(proof, None, now),
            (Some(Method::Redis(users) | Method::Postgres(users)), ServiceFinding::Row(row)) => {
                users.judge(proof, row.as_ref())
            }
            // These methods have their verdict on the thread that talks to services.
            (Some(Method::Http(_) | Method::Redis(_) | Method::Postgres(_)), _) => {
                Verdict::Failed("a service is not asked here")
            }
            (Some(Method::Certificate(_) | Method::Scram(_)) | None, _) => Verdict::Unknown,
        }
    }
}

/// A verdict in a word or two, for the tests of the methods.
#[cfg(test)]
pub(super) fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Accept(_) => "accepted",
        Verdict::Refuse(why) | Verdict::Failed(why) => why,
        Verdict::Unknown => "unknown",
    }
}
