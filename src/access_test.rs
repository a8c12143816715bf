//! `ringmq access test`: says what the access rules decide about a client, and which rule decides.
//! Reads the files that the configuration names, and asks services as the broker would.

use std::net::IpAddr;

use clap::{Args, ValueEnum};
use ringmq::access::load::{load, read_file};
use ringmq::access::{Access, Decision, Deed, Grant, Identity, Proof, Ruled, Said, Who, own};
use ringmq::broker::ask_once;
use ringmq::config::Config;
use ringmq::ids::Peer;
use ringmq::topic;

use crate::arguments::Given;

/// Who wants to do what.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Tested {
    #[command(flatten)]
    pub given: Given,
    /// ClientId.
    #[arg(long, value_name = "CLIENT_ID")]
    pub client: String,
    /// User name; left out: an anonymous client.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Listener that it came in by; left out: the first.
    #[arg(long, value_name = "NAME")]
    pub listener: Option<String>,
    /// Address that it came from.
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<IpAddr>,
    /// Common name of its certificate.
    #[arg(long, value_name = "NAME")]
    pub certificate: Option<String>,
    /// An attribute that authentication gave it.
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = attribute)]
    pub attributes: Vec<(String, String)>,
    /// QoS of the message or the subscription.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// The message is retained.
    #[arg(long)]
    pub retain: bool,
    /// What it wants.
    #[arg(value_enum)]
    pub deed: AskedAction,
    /// Topic name, or topic filter, as the client calls it.
    pub topic: String,
}

/// What a client wants.
#[derive(Clone, Copy, ValueEnum, Debug, PartialEq, Eq)]
pub enum AskedAction {
    /// To publish.
    Publish,
    /// To subscribe.
    Subscribe,
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Whether the client may do what was asked, and a sentence that says why.
///
/// # Errors
/// Every problem of the files.
pub fn run(tested: &Tested, config: &Config) -> Result<(bool, String), Vec<String>> {
    let access = load(config, &read_file)?;
    let valid = match tested.deed {
        AskedAction::Publish => topic::valid_name(&tested.topic),
        AskedAction::Subscribe => topic::parse_share(&tested.topic)
            .map_or(topic::valid_filter(&tested.topic), |s| s.is_ok()),
    };
    if !valid {
        return Err(vec![format!("`{}` is no topic for that", tested.topic)]);
    }
    let mut grant = Grant::named(tested.user.as_deref());
    if let Some(address) = tested.address {
        grant.peer = Peer::Tcp(address, 0);
    }
    grant.certificate = tested.certificate.as_deref().unwrap_or_default().into();
    let attributes = tested.attributes.iter();
    grant.attributes =
        attributes.map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect();
    if let Some(name) = tested.listener.as_deref()
        && !config.listeners.iter().any(|listener| &*listener.name == name)
    {
        let known: Vec<&str> = config.listeners.iter().map(|listener| &*listener.name).collect();
        let known = known.join(", ");
        return Err(vec![format!("--listener: there is no listener `{name}`, but {known}")]);
    }
    let first = config.listeners.first().map_or("", |listener| &listener.name);
    let listener = tested.listener.as_deref().unwrap_or(first);
    let who = Who { client_id: &tested.client, grant: &grant, listener };
    Ok(judge(tested, &access, &who))
}

fn judge(tested: &Tested, access: &Access, who: &Who<'_>) -> (bool, String) {
    let (deed, inner) = match tested.deed {
        AskedAction::Publish => {
            if let Decision::Deny(denied) = own::publish(&tested.topic, &tested.topic) {
                return (false, format!("denied: {}\n", denied.what));
            }
            (Deed::Publish { qos: tested.qos, retain: tested.retain }, &*tested.topic)
        }
        AskedAction::Subscribe => {
            let share = topic::parse_share(&tested.topic).and_then(Result::ok);
            let inner = share.map_or(&*tested.topic, |share| share.filter);
            (Deed::Subscribe { qos: tested.qos }, inner)
        }
    };
    if access.at_delivery && tested.deed == AskedAction::Subscribe && inner.contains(['+', '#']) {
        let why = "access.read_check is delivery: name a topic to see what would be delivered";
        return (true, format!("allowed: {why}\n"));
    }
    let mut asked: Vec<(usize, Said, Option<u32>)> = Vec::new();
    loop {
        let said = |at| asked.iter().find(|(known, ..)| *known == at).map(|(_, said, _)| *said);
        match access.explain(who, deed, inner, said).0 {
            Ruled::By(ruling, rules) => {
                return told(ruling.allow, &rules.place(ruling.written));
            }
            Ruled::Ask(at) => {
                let (said, rule) = ask(access, at, who, deed, inner);
                asked.push((at, said, rule));
            }
            Ruled::Service(_, allow) => {
                // The service that was asked last decides.
                let (at, said, rule) = asked.last().copied().unwrap_or((0, Said::Nothing, None));
                let key = access.service(at).map_or("?", |service| &service.key);
                return match (said, rule) {
                    (Said::Failed(why), _) => (false, format!("denied: {key}: {why}\n")),
                    (_, Some(rule)) => told(allow, &format!("rule {rule} of {key}")),
                    (_, None) => told(allow, key),
                };
            }
            Ruled::Nobody if access.default_for(who.grant) => {
                let why = if access.authorizes {
                    "no rule matches, and access.no_match is allow"
                } else {
                    "access.authorization has no rules"
                };
                return (true, format!("allowed: {why}\n"));
            }
            Ruled::Nobody => return (false, "denied: no rule matches\n".to_owned()),
        }
    }
}

fn told(allow: bool, by: &str) -> (bool, String) {
    let word = if allow { "allowed" } else { "denied" };
    (allow, format!("{word} by {by}\n"))
}

/// Asks the service at a position of the chain, as the broker would.
fn ask(access: &Access, at: usize, who: &Who<'_>, deed: Deed, topic: &str) -> (Said, Option<u32>) {
    let grant = who.grant;
    let identity = Identity { common_name: grant.certificate.clone(), ..Identity::default() };
    let proof = Proof {
        client_id: who.client_id.into(),
        username: grant.username.clone(),
        password: None,
        peer: grant.peer,
        listener: who.listener.into(),
        identity: (!grant.certificate.is_empty()).then(|| identity.into()),
        attributes: grant.attributes.clone(),
    };
    let asked = ask_once(access, at, &proof, (deed, topic.into()));
    asked.unwrap_or((Said::Failed("it cannot be asked from here"), None))
}
