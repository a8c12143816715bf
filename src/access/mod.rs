//! Who may connect, publish and subscribe. Pure: a shard asks, and gets a [`Decision`].
//!
//! - [`Access`] is what `access:` says, read by [`load`] with the files that it names. One is in
//!   force at a time; a reload makes another, and what was decided before is forgotten.
//! - *Authentication* is a chain of [`Method`]s. What a method decides at once is decided on the
//!   shard; what takes long (hashing a password, checking a signature, asking a service) is
//!   [`Work`] for a helper thread, whose [`Verdict`] comes later.
//! - *Authorisation* is one [`rule::RuleSet`] of all sources in their order; its decisions about
//!   topics are kept in a [`cache::Cache`] of the shard. A client's own rules (of its token, or of
//!   the service that let it in) come first.
//!
//! The broker's own rules about topics, which hold whatever is configured, are in [`own`].
//!
//! Not here: waiting, which is the shard's (`shard/admission.rs`), and helper threads, which are
//! the broker's (`broker/questions.rs`).

pub mod acl_file;
pub mod cache;
pub mod chain;
pub mod claims;
pub mod digest;
pub mod http;
pub mod jwt;
pub mod keys;
pub mod load;
pub mod lookup;
pub mod own;
pub mod passwd;
pub mod password;
pub mod pattern;
pub mod rule;
pub mod scram;
pub mod template;
pub mod yaml_rules;

use crate::config::{CertificateName, OnDeny};
use crate::ids::{ListenerId, Peer};
use crate::packet::ReasonCode;
use crate::time::Instant;
pub use chain::{Answered, Finding, Method, MethodKind, Proof, Verdict, Work};
use rule::RuleSet;

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
    /// It may.
    Allow,
    /// It may not.
    Deny(Denied),
    /// It is not known yet: the answer comes.
    Later,
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
    /// The rules of all sources.
    pub rules: RuleSet,
    /// There is a source of rules.
    pub authorizes: bool,
    /// What no rule is about is allowed.
    pub no_match_allows: bool,
    /// What an MQTT 3 client sees that may not publish.
    pub on_deny: OnDeny,
    /// Decisions that one shard remembers.
    pub cache_entries: usize,
}

impl Access {
    /// Nothing is configured.
    pub fn open() -> Access {
        Access {
            methods: Vec::new(),
            rules: RuleSet::default(),
            authorizes: false,
            no_match_allows: true,
            on_deny: OnDeny::Ignore,
            cache_entries: 0,
        }
    }

    /// Whether some client may not do everything: there are rules, or a method that may bring a
    /// client's own.
    pub fn restricts(&self) -> bool {
        let brings = |method: &Method| matches!(method, Method::Jwt(_) | Method::Http(_));
        self.authorizes || self.methods.iter().any(brings)
    }

    /// What the rules say of a deed, and how many of them were looked at. `topic` is what the
    /// client calls it, without mountpoint and without `$share/group/`.
    pub fn judge(&self, who: &Who<'_>, deed: Deed, topic: &str) -> (bool, u32) {
        let (ruling, looked_at) = self.explain(who, deed, topic);
        (ruling.map_or_else(|| self.default_for(who.grant), |ruling| ruling.allow), looked_at)
    }

    /// The rule that decides; `None` when none does.
    pub fn explain(&self, who: &Who<'_>, deed: Deed, topic: &str) -> (Option<rule::Ruling>, u32) {
        let own = who.grant.rules.as_ref().map(|rules| rules.judge(who, deed, topic));
        let (own, first) = own.unwrap_or((None, 0));
        if own.is_some() || who.grant.superuser {
            return (own, first);
        }
        let (ruling, second) = self.rules.judge(who, deed, topic);
        (ruling, first + second)
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
