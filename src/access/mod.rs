//! Who may connect, publish and subscribe. Pure: a shard calls, and gets a [`Decision`].
//!
//! - [`Access`] is the section `access:`, read by [`load`] with the files that it names. One is in
//!   force at a time. A reload makes another, and earlier decisions are forgotten.
//! - *Authentication* is a chain of [`Method`]s. A method that can decide at once decides on the
//!   shard. What takes long (hashing a password, checking a signature, asking a service) is
//!   [`WorkPlace`] for a helper thread, whose [`Verdict`] comes later.
//! - *Authorisation* asks [`RuleSource`]s in their order: sets of rules, and services, whose answer
//!   [`Said`] comes later. Each shard keeps decisions about topics in a [`cache::Cache`]. A
//!   client's own rules, from its token or from the service that accepted it, come first.
//!
//! The broker's own rules about topics, which hold whatever is configured, are in [`own`].
//!
//! Not here: clients that wait for a decision, which are the shard's (`shard/admission.rs`), and
//! helper threads, which are the broker's (`broker/questions.rs`).

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
pub use chain::{Answered, Method, MethodKind, Proof, ServiceFinding, Verdict, WorkPlace};
use http::HttpAuthService;
use rule::RuleSet;
use std::sync::Arc;
use stored_rules::StoredRules;

/// Why a client is denied something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Denied {
    /// The reason code for a version 5 client.
    pub reason: ReasonCode,
    /// The reason in words, for the log.
    pub what: &'static str,
}

/// The answer to whether a client may do something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The client may.
    Allow,
    /// The client may not.
    Deny(Denied),
    /// The answer is not known yet and comes later.
    Later,
}

/// A service's answer about a [`Deed`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    /// The client may.
    Allow,
    /// The client may not.
    Deny,
    /// The next source of rules is asked.
    Nothing,
    /// The service did not answer, and no other source is to be asked: the client may not, for this
    /// reason.
    Failed(&'static str),
}

/// A source of rules.
#[derive(Debug)]
pub enum RuleSource {
    /// Rules in memory. Neighbouring sources of rules are merged into one.
    Rules(RuleSet),
    /// A service that is asked over the network.
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
    /// An HTTP service, asked about each [`Deed`].
    Http(Arc<HttpAuthService>),
    /// A database, asked for the rules of a client.
    Stored(Arc<StoredRules>),
}

impl RuleServiceKind {
    fn decider(&self) -> Decider {
        match self {
            RuleServiceKind::Http(_) => Decider::Http,
            RuleServiceKind::Stored(rules) => match rules.database.ask {
                database::DatabaseQuery::Redis(_) => Decider::Redis,
                database::DatabaseQuery::Postgres(..) => Decider::Postgres,
            },
        }
    }
}

/// Who decides, by kind: what decisions are counted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decider {
    /// The rules that the client was let in with.
    Client,
    /// Those of the configuration.
    Rules,
    /// A service over HTTP.
    Http,
    /// A Redis server.
    Redis,
    /// A PostgreSQL server.
    Postgres,
    /// Nobody: what holds when no rule decides, or for a superuser.
    Nobody,
}

/// What decides about a [`Deed`].
#[derive(Clone, Copy, Debug)]
pub enum Ruled<'a> {
    /// A rule of this set.
    By(rule::Ruling, &'a RuleSet),
    /// The service at the first position of [`Access::sources`], which has allowed it or not.
    Service(usize, bool),
    /// The service at this position of [`Access::sources`] has to be asked first.
    Ask(usize),
    /// No rule and no service: the default holds.
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

/// The names in a TLS client certificate. They are kept with the connection.
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

/// What rules know of a client.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Its ClientId.
    pub client_id: &'a str,
    /// What it was accepted with.
    pub grant: &'a Grant,
    /// The name of its listener.
    pub listener: &'a str,
}

/// What a client was accepted with. Its session keeps it until the next connection.
#[derive(Debug)]
pub struct Grant {
    /// Its user name; `None` for an anonymous client.
    pub username: Option<Box<str>>,
    /// True when no rule of the configuration applies to the client.
    pub superuser: bool,
    /// The client's own rules, which come first.
    pub rules: Option<Box<RuleSet>>,
    /// Attributes, by name, that rules can demand.
    pub attributes: Box<[(Box<str>, Box<str>)]>,
    /// The common name of its certificate; empty for none.
    pub certificate: Box<str>,
    /// The method of its enhanced authentication, if it used any.
    pub mechanism: Option<scram::Mechanism>,
    /// When the client has to authenticate again; [`Instant::END`] for never.
    pub ends: Instant,
    /// The number of its credentials: [`Accepted::credential`](chain::Accepted::credential).
    pub credential: u64,
    /// A number that no other grant of the shard has.
    pub serial: u64,
    /// The client's address.
    pub peer: Peer,
    /// The listener that it has connected to.
    pub listener: ListenerId,
}

impl Grant {
    /// The grant of a client of which only the user name is known.
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

    /// Approximate bytes of memory.
    pub fn size(&self) -> usize {
        let texts = self.attributes.iter().map(|(name, text)| name.len() + text.len());
        size_of::<Grant>()
            + self.username.as_ref().map_or(0, |name| name.len())
            + texts.sum::<usize>()
            + self.certificate.len()
            + self.rules.as_ref().map_or(0, |rules| rules.size())
    }
}

/// The section `access:` with the files that it names.
#[derive(Debug)]
pub struct Access {
    /// Methods of authentication, asked in turn.
    pub methods: Vec<Method>,
    /// Sources of rules, asked in turn.
    pub sources: Vec<RuleSource>,
    /// True when the configuration has a source of rules.
    pub authorizes: bool,
    /// True when a client may do what no rule is about.
    pub no_match_allows: bool,
    /// How a denied PUBLISH is answered to an MQTT 3 client.
    pub on_deny: OnDeny,
    /// True when what a client may read is decided at each delivery.
    pub at_delivery: bool,
    /// What happens to connected users whose password a reload changes.
    pub on_user_changed: OnUserChanged,
    /// Decisions that one shard remembers.
    pub cache_entries: usize,
    /// Seconds for which the answer of a service is remembered.
    pub cache_ttl: u32,
    /// Logins that one shard remembers.
    pub cache_logins: usize,
}

impl Access {
    /// The access of a configuration without a section `access:`: everything is allowed.
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

    /// Whether there may be a client with restrictions: there are sources of rules, or a method
    /// that can bring a client's own rules.
    pub fn restricts(&self) -> bool {
        let brings = |method: &Method| matches!(method, Method::Jwt(_) | Method::Http(_));
        self.authorizes || self.methods.iter().any(brings)
    }

    /// Whether one of the sources is a service.
    pub fn asks(&self) -> bool {
        self.sources.iter().any(|source| matches!(source, RuleSource::Service(_)))
    }

    /// The service at this position of `sources`.
    pub fn service(&self, at: usize) -> Option<&RuleService> {
        match self.sources.get(at) {
            Some(RuleSource::Service(service)) => Some(service),
            _ => None,
        }
    }

    /// What decides about a deed, and how many rules were looked at. `topic` is the name or filter
    /// that the client uses, without mountpoint and without `$share/group/`. `said` returns the
    /// answer of the service at a position, if it has answered.
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
                RuleSource::Rules(rules) => {
                    let (ruling, more) = rules.judge(who, deed, topic);
                    looked_at += more;
                    if let Some(ruling) = ruling {
                        return (Ruled::By(ruling, rules), looked_at);
                    }
                }
                RuleSource::Service(_) => match said(at) {
                    None => return (Ruled::Ask(at), looked_at),
                    Some(Said::Nothing) => {}
                    Some(Said::Allow) => return (Ruled::Service(at, true), looked_at),
                    Some(Said::Deny | Said::Failed(_)) => {
                        return (Ruled::Service(at, false), looked_at);
                    }
                },
            }
        }
        (Ruled::Nobody, looked_at)
    }

    /// What kind of service there is at a position.
    pub fn service_at(&self, at: usize) -> Decider {
        self.service(at).map_or(Decider::Nobody, |service| service.kind.decider())
    }

    /// Who decides, by kind.
    pub fn decider(&self, grant: &Grant, ruled: Ruled<'_>) -> Decider {
        let own = |rules| grant.rules.as_deref().is_some_and(|own| std::ptr::eq(own, rules));
        match ruled {
            Ruled::By(_, rules) if own(rules) => Decider::Client,
            Ruled::By(..) => Decider::Rules,
            Ruled::Service(at, _) | Ruled::Ask(at) => self.service_at(at),
            Ruled::Nobody => Decider::Nobody,
        }
    }

    /// Whether the client may do it.
    ///
    /// # Errors
    /// The position of the service that has to be asked first.
    pub fn allows(&self, grant: &Grant, ruled: Ruled<'_>) -> Result<bool, usize> {
        match ruled {
            Ruled::By(ruling, _) => Ok(ruling.allow),
            Ruled::Service(_, allow) => Ok(allow),
            Ruled::Ask(at) => Err(at),
            Ruled::Nobody => Ok(self.default_for(grant)),
        }
    }

    /// Whether a client may do what no rule decides.
    pub fn default_for(&self, grant: &Grant) -> bool {
        grant.superuser
            || if self.authorizes { self.no_match_allows } else { grant.rules.is_none() }
    }
}

/// The broker does not let the client do that.
pub const NOT_ALLOWED: Denied =
    Denied { reason: ReasonCode::NotAuthorized, what: "the rules do not allow it" };
