//! Who may connect, publish and subscribe. Pure: a shard asks, and gets a [`Decision`].
//!
//! - [`Access`] is what `access:` says, read by [`load`] with the files that it names. One is in
//!   force at a time; a reload makes another, and what was decided before is forgotten.
//! - *Authentication* is a chain of [`Method`]s. What a method decides at once is decided on the
//!   shard; what takes long (hashing a password, checking a signature, asking a service) is
//!   [`Work`] for a helper thread, whose [`Verdict`] comes later.
//! - *Authorisation* asks [`Source`]s in their order: sets of rules, and services, whose answer is
//!   [`Said`] later. Decisions about topics are kept in a [`cache::Cache`] of the shard. A client's
//!   own rules (of its token, or of the service that let it in) come first.
//!
//! The broker's own rules about topics, which hold whatever is configured, are in [`own`].
//!
//! Not here: waiting, which is the shard's (`shard/admission.rs`), and helper threads, which are
//! the broker's (`broker/questions.rs`).

pub mod acl_file;
pub mod cache;
mod carried;
pub mod chain;
pub mod claims;
pub mod database;
pub mod digest;
pub mod http;
pub mod jwt;
pub mod keys;
pub mod load;
pub mod logins;
pub mod lookup;
pub mod own;
pub mod passwd;
pub mod password;
pub mod pattern;
pub mod rule;
pub mod scram;
pub mod stored_rules;
pub mod template;
pub mod topic_rules;
pub mod yaml_rules;

use crate::config::{CertificateName, OnDeny, OnUserChanged};
use crate::ids::{ListenerId, Peer};
use crate::packet::ReasonCode;
use crate::time::Instant;
pub use chain::{Answered, Finding, Method, MethodKind, Proof, Verdict, Work};
use http::HttpService;
use rule::RuleSet;
use std::sync::Arc;
use stored_rules::StoredRules;

/// Why something is denied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Denied {
    /// What a version 5 client is told.
    pub reason: ReasonCode,
    /// For people.
    pub what: &'static str,
}

/// What access answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The client may.
    Allow,
    /// The client may not.
    Deny(Denied),
    /// It is not known yet: the answer comes.
    Later,
}

/// What a service says of a deed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    /// The client may.
    Allow,
    /// The client may not.
    Deny,
    /// The next source of rules is asked.
    Nothing,
    /// It did not answer, and nobody else is to be asked: it may not; why.
    Failed(&'static str),
}

/// A source of rules.
#[derive(Debug)]
pub enum Source {
    /// Rules that are at hand; neighbouring sources are one.
    Rules(RuleSet),
    /// A service that is asked.
    Service(RuleService),
}

/// A service that says what clients may do.
#[derive(Debug)]
pub struct RuleService {
    /// The key of its element in the configuration.
    pub key: Box<str>,
    /// How it is asked.
    pub kind: RuleServiceKind,
}

/// How a service of rules is asked.
#[derive(Debug)]
pub enum RuleServiceKind {
    /// Over HTTP, about each deed.
    Http(Arc<HttpService>),
    /// A database is asked for the rules of a client.
    Stored(Arc<StoredRules>),
}

/// Who decides about a deed.
#[derive(Clone, Copy, Debug)]
pub enum Ruled<'a> {
    /// A rule of this set.
    By(rule::Ruling, &'a RuleSet),
    /// A service, as it has said.
    Service(bool),
    /// A service that is to be asked: its position.
    Ask(usize),
    /// Nobody.
    Nobody,
}

/// What a client wants to do with a topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    /// Publish to a topic name, as a message or a will.
    Publish {
        /// 0 to 2.
        qos: u8,
        /// RETAIN is set.
        retain: bool,
    },
    /// Subscribe with a topic filter.
    Subscribe {
        /// 0 to 2.
        qos: u8,
    },
}

/// Who a TLS client certificate says that the client is. Carried with the connection.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Identity {
    /// The subject's common name.
    pub common_name: Box<str>,
    /// The first subject alternative name.
    pub alternative_name: Box<str>,
    /// The whole subject, as RFC 4514 writes it.
    pub subject: Box<str>,
}

impl Identity {
    /// The part that becomes the user name; `None` when the certificate has none.
    pub fn name(&self, part: CertificateName) -> Option<&str> {
        let name = match part {
            CertificateName::Cn => &self.common_name,
            CertificateName::San => &self.alternative_name,
            CertificateName::Dn => &self.subject,
        };
        (!name.is_empty()).then_some(&**name)
    }
}

/// What a client is known by, for rules.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Its ClientId.
    pub client_id: &'a str,
    /// What it was let in with.
    pub grant: &'a Grant,
    /// The name of its listener.
    pub listener: &'a str,
}

/// What a client was let in with. Its session keeps it until the next connection.
#[derive(Debug)]
pub struct Grant {
    /// Its user name; `None` for an anonymous client.
    pub username: Option<Box<str>>,
    /// No rule of the configuration holds for it.
    pub superuser: bool,
    /// Rules of its own, which come first.
    pub rules: Option<Box<RuleSet>>,
    /// What rules may ask for.
    pub attributes: Box<[(Box<str>, Box<str>)]>,
    /// The common name of its certificate; empty for none.
    pub certificate: Box<str>,
    /// The method of its enhanced authentication.
    pub mechanism: Option<scram::Mechanism>,
    /// When it has to prove itself again; the end of time for never.
    pub ends: Instant,
    /// What it showed: [`Accepted::credential`](chain::Accepted::credential).
    pub credential: u64,
    /// Tells it from every other grant of the shard.
    pub serial: u64,
    /// Where it came from.
    pub peer: Peer,
    /// Where it came in.
    pub listener: ListenerId,
}

impl Grant {
    /// Of a client with this name, of which nothing else is known.
    pub fn named(username: Option<&str>) -> Grant {
        Grant {
            username: username.map(Into::into),
            superuser: false,
            rules: None,
            attributes: Box::default(),
            certificate: Box::default(),
            mechanism: None,
            ends: Instant::END,
            credential: 0,
            serial: 0,
            peer: Peer::Unix,
            listener: ListenerId(0),
        }
    }

    /// Bytes of memory, about.
    pub fn size(&self) -> usize {
        let texts = self.attributes.iter().map(|(name, text)| name.len() + text.len());
        size_of::<Grant>()
            + self.username.as_ref().map_or(0, |name| name.len())
            + texts.sum::<usize>()
            + self.certificate.len()
            + self.rules.as_ref().map_or(0, |rules| rules.size())
    }
}

/// What `access:` says, with the files that it names.
#[derive(Debug)]
pub struct Access {
    /// Asked in turn.
    pub methods: Vec<Method>,
    /// Asked in turn.
    pub sources: Vec<Source>,
    /// There is a source of rules.
    pub authorizes: bool,
    /// What no rule is about is allowed.
    pub no_match_allows: bool,
    /// What an MQTT 3 client sees that may not publish.
    pub on_deny: OnDeny,
    /// What clients may read is decided at each delivery.
    pub at_delivery: bool,
    /// What happens to connected users whose password a reload changes.
    pub on_user_changed: OnUserChanged,
    /// Decisions that one shard remembers.
    pub cache_entries: usize,
    /// Seconds for which what a service said is remembered.
    pub cache_ttl: u32,
    /// Logins that one shard remembers.
    pub cache_logins: usize,
}

impl Access {
    /// Nothing is configured.
    pub fn open() -> Access {
        Access {
            methods: Vec::new(),
            sources: Vec::new(),
            authorizes: false,
            no_match_allows: true,
            on_deny: OnDeny::Ignore,
            at_delivery: false,
            on_user_changed: OnUserChanged::Disconnect,
            cache_entries: 0,
            cache_ttl: 0,
            cache_logins: 0,
        }
    }

    /// Whether some client may not do everything: there are rules, or a method that may bring a
    /// client's own.
    pub fn restricts(&self) -> bool {
        let brings = |method: &Method| matches!(method, Method::Jwt(_) | Method::Http(_));
        self.authorizes || self.methods.iter().any(brings)
    }

    /// Whether a service is asked what clients may do.
    pub fn asks(&self) -> bool {
        self.sources.iter().any(|source| matches!(source, Source::Service(_)))
    }

    /// The service at a position.
    pub fn service(&self, at: usize) -> Option<&RuleService> {
        match self.sources.get(at) {
            Some(Source::Service(service)) => Some(service),
            _ => None,
        }
    }

    /// Who decides about a deed, and how many rules were looked at. `topic` is what the client
    /// calls it, without mountpoint and without `$share/group/`; `said` has what the service at a
    /// position has said, if it was asked.
    pub fn explain<'s>(
        &'s self,
        who: &Who<'s>,
        deed: Deed,
        topic: &str,
        said: impl Fn(usize) -> Option<Said>,
    ) -> (Ruled<'s>, u32) {
        let own = who.grant.rules.as_deref().map(|rules| (rules, rules.judge(who, deed, topic)));
        let mut looked_at = own.as_ref().map_or(0, |(_, (_, looked_at))| *looked_at);
        if let Some((rules, (Some(ruling), _))) = own {
            return (Ruled::By(ruling, rules), looked_at);
        }
        if who.grant.superuser {
            return (Ruled::Nobody, looked_at);
        }
        for (at, source) in self.sources.iter().enumerate() {
            match source {
                Source::Rules(rules) => {
                    let (ruling, more) = rules.judge(who, deed, topic);
                    looked_at += more;
                    if let Some(ruling) = ruling {
                        return (Ruled::By(ruling, rules), looked_at);
                    }
                }
                Source::Service(_) => match said(at) {
                    None => return (Ruled::Ask(at), looked_at),
                    Some(Said::Nothing) => {}
                    Some(Said::Allow) => return (Ruled::Service(true), looked_at),
                    Some(Said::Deny | Said::Failed(_)) => {
                        return (Ruled::Service(false), looked_at);
                    }
                },
            }
        }
        (Ruled::Nobody, looked_at)
    }

    /// Whether it may; the position of the service that is to be asked when that is not known yet.
    ///
    /// # Errors
    /// That position.
    pub fn allows(&self, grant: &Grant, ruled: Ruled<'_>) -> Result<bool, usize> {
        match ruled {
            Ruled::By(ruling, _) => Ok(ruling.allow),
            Ruled::Service(allow) => Ok(allow),
            Ruled::Ask(at) => Err(at),
            Ruled::Nobody => Ok(self.default_for(grant)),
        }
    }

    /// What holds when no rule decides.
    pub fn default_for(&self, grant: &Grant) -> bool {
        grant.superuser
            || if self.authorizes { self.no_match_allows } else { grant.rules.is_none() }
    }
}

/// The broker does not let the client do that.
pub const NOT_ALLOWED: Denied =
    Denied { reason: ReasonCode::NotAuthorized, what: "the rules do not allow it" };
