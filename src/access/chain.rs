//! Authentication: the methods, what they are shown, and what they say.

use super::http::HttpService;
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

/// What a client shows in its CONNECT.
#[derive(Clone, Debug)]
pub struct Proof {
    /// Its ClientId, assigned or its own.
    pub client_id: Box<str>,
    /// User name.
    pub username: Option<Box<str>>,
    /// Password: any bytes.
    pub password: Option<Box<[u8]>>,
    /// Where it comes from.
    pub peer: Peer,
    /// The name of its listener.
    pub listener: Arc<str>,
    /// Its certificate.
    pub identity: Option<Arc<Identity>>,
    /// What authentication has said of it; none before.
    pub attributes: Box<[(Box<str>, Box<str>)]>,
}

/// What a client is let in with.
#[derive(Clone, Default, Debug)]
pub struct Accepted {
    /// Its user name, when that is not what it said.
    pub username: Option<Box<str>>,
    /// No rule of the configuration holds for it.
    pub superuser: bool,
    /// Milliseconds until it has to prove itself again.
    pub lasts: Option<u64>,
    /// Rules of its own.
    pub rules: Option<Box<RuleSet>>,
    /// The method of enhanced authentication, and the server's last message.
    pub exchanged: Option<Box<(Mechanism, String)>>,
    /// What rules may ask for.
    pub attributes: Box<[(Box<str>, Box<str>)]>,
    /// Tells what it showed from what would be right after a reload; 0: that is not looked at.
    pub credential: u64,
}

/// What a method says of a client.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It is who it says.
    Accept(Box<Accepted>),
    /// It is not; why, for people.
    Refuse(&'static str),
    /// The method does not know: the next one is asked.
    Unknown,
    /// The method could not find out, and nobody else is to be asked; why.
    Failed(&'static str),
}

/// What takes long, and where it is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Arithmetic: a thread for hashing.
    Hash,
    /// A service: the thread that talks to them.
    Service,
}

/// What a service has said, with which a thread for hashing goes on.
#[derive(Clone, Debug, Default)]
pub enum Finding {
    /// No service was asked.
    #[default]
    Nothing,
    /// The keys in force.
    Keys(Arc<KeySet>),
    /// A user's columns; `None`: there is no such user.
    Row(Option<Row>),
}

/// Whether a method has an answer at once.
#[derive(Clone, Debug)]
pub enum Answered {
    /// It has.
    Now(Verdict),
    /// It has to be worked out: [`Access::work_out`].
    Later(Work),
}

/// A way to prove who one is.
#[derive(Debug)]
pub enum Method {
    /// Hashes of passwords.
    PasswordFile(PasswordFile),
    /// The client certificate: which part is the user name.
    Certificate(CertificateName),
    /// A JSON Web Token.
    Jwt(Box<Jwt>),
    /// A service that is asked.
    Http(Arc<HttpService>),
    /// Enhanced authentication. In the chain it knows nobody.
    Scram(ScramFile),
    /// Users in Redis.
    Redis(Arc<Lookup>),
    /// Users in PostgreSQL.
    Postgres(Arc<Lookup>),
}

/// Kinds of methods, for figures.
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
    /// Bytes of memory besides its own, about.
    pub fn size(&self) -> usize {
        let texts = self.attributes.iter().map(|(name, text)| name.len() + text.len());
        texts.sum::<usize>() + self.rules.as_ref().map_or(0, |rules| rules.size())
    }
}

impl Method {
    /// For how long a login is remembered; zero: not at all.
    pub fn remember(&self) -> Duration {
        match self {
            Method::PasswordFile(file) => file.remember(),
            Method::Http(service) => service.remember,
            Method::Redis(users) | Method::Postgres(users) => users.remember,
            Method::Certificate(_) | Method::Jwt(_) | Method::Scram(_) => Duration::ZERO,
        }
    }

    /// All that a login depends on, which is the method at `at`, in one text.
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
            Method::PasswordFile(_) => Answered::Later(Work::Hash),
            Method::Jwt(jwt) if jwt.token(proof).is_none() => Answered::Now(Verdict::Unknown),
            Method::Jwt(jwt) if jwt.source().is_some() => Answered::Later(Work::Service),
            Method::Jwt(_) => Answered::Later(Work::Hash),
            // Who has no name is no user.
            Method::Redis(_) | Method::Postgres(_) if proof.username.is_none() => {
                Answered::Now(Verdict::Unknown)
            }
            Method::Redis(_) | Method::Postgres(_) => Answered::Later(Work::Service),
            Method::Http(_) => Answered::Later(Work::Service),
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
    /// Asks the method at `at`; `None` behind the last.
    pub fn begin(&self, at: usize, proof: &Proof) -> Option<Answered> {
        self.methods.get(at).map(|method| method.begin(proof))
    }

    /// Whether what a user showed to a password file is still right. True for who did not show
    /// anything to one.
    pub fn still_knows(&self, username: Option<&str>, credential: u64) -> bool {
        let same = |method: &Method| match method {
            Method::PasswordFile(file) => {
                username.and_then(|name| file.credential(name)) == Some(credential)
            }
            _ => false,
        };
        credential == 0 || self.methods.iter().any(same)
    }

    /// The keys for enhanced authentication, and their place in the chain.
    pub fn scram(&self) -> Option<(usize, &ScramFile)> {
        self.methods.iter().enumerate().find_map(|(at, method)| match method {
            Method::Scram(file) => Some((at, file)),
            _ => None,
        })
    }

    /// Works out the verdict of the method at position `at` from what a service has answered; `now`
    /// in seconds since 1970. It takes up to some hundred milliseconds, so it must never run on a
    /// shard's thread.
    pub fn work_out(&self, at: usize, proof: &Proof, finding: &Finding, now: u64) -> Verdict {
        match (self.methods.get(at), finding) {
            (Some(Method::PasswordFile(file)), _) => file.verify(proof),
            (Some(Method::Jwt(jwt)), Finding::Keys(set)) => jwt.verify(proof, Some(set), now),
            (Some(Method::Jwt(jwt)), _) => jwt.verify(proof, None, now),
            (Some(Method::Redis(users) | Method::Postgres(users)), Finding::Row(row)) => {
                users.judge(proof, row.as_ref())
            }
            // Its thread asks it.
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
