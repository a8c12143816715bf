//! What each setting lets clients make the broker hold at worst, if all of them do so at once. And
//! the budget that no sum of these exceeds (`limits.memory`).

use crate::config::{Config, Get, MemoryBudget};
use crate::limits::{ALIAS_BYTES, MAX_TOPIC_LENGTH};

use super::facts::Facts;
use super::finding::{Finding, Fix, Severity};
use super::report::{bytes, count};

/// The bytes that the identifier of a QoS 2 message takes at worst while it awaits PUBREL.
const IDENTIFIER: u64 = 24;
/// How many times `mqtt.outgoing_max_bytes` a client that keeps reading may have unsent.
const OVERSHOOT: u64 = 8;
/// The bytes that a subscription takes besides its filter.
const SUBSCRIPTION: u64 = 100;

/// The worst case of one setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Worst {
    /// The name of the setting.
    pub key: &'static str,
    /// The bytes, if the setting is a bound besides the budget.
    pub bytes: Option<u64>,
    /// How the number comes about.
    pub because: String,
}

/// The worst cases for this number of clients.
pub(super) fn worst(config: &Config, clients: u64) -> Vec<Worst> {
    let (mqtt, retained) = (&config.mqtt, &config.retained);
    let (packet, longest) = (u64::from(mqtt.max_packet_size.get()), MAX_TOPIC_LENGTH as u64);
    let each = |key, one: u64, because: &str| Worst {
        key,
        bytes: Some(one.saturating_mul(clients)),
        because: format!("{} {because}", bytes(one)),
    };
    let aliases =
        (u64::from(mqtt.max_topic_alias.get()) * (longest + 16)).min(ALIAS_BYTES as u64 * 2);
    let subscriptions = mqtt.max_subscriptions.get().map(u64::from);
    let retained = Worst {
        key: "retained.max_bytes",
        bytes: retained.max_bytes.get(),
        because: "of the whole broker, with topics; the names once more, and 112 bytes each".into(),
    };
    let filters = match subscriptions {
        Some(most) => each(
            "mqtt.max_subscriptions",
            most.saturating_mul(longest + SUBSCRIPTION),
            "of subscriptions per client, with the longest filters",
        ),
        None => Worst {
            key: "mqtt.max_subscriptions",
            bytes: None,
            because: "subscriptions of 100 bytes and their filters".into(),
        },
    };
    let pending = "waiting per session, connected or not";
    let unsent = mqtt.outgoing_max_bytes.get().saturating_mul(OVERSHOOT);
    let window = u64::from(mqtt.max_inflight.get()).saturating_mul(packet);
    let identifiers = u64::from(u16::MAX) * IDENTIFIER;
    vec![
        each(
            "limits.before_connect",
            config.limits.before_connect.get().into(),
            "before each CONNECT",
        ),
        each("mqtt.max_packet_size", packet, "of an unfinished packet per client"),
        each("mqtt.outgoing_max_bytes", unsent, "unsent per client, eight times the setting"),
        each("mqtt.pending.max_bytes", mqtt.pending.max_bytes.get(), pending),
        each("mqtt.max_inflight", window, "in flight per client, of the largest packets"),
        each("mqtt.receive_maximum", identifiers, "of QoS 2 identifiers per client of MQTT 3"),
        each("mqtt.max_topic_alias", aliases, "of topic aliases per client"),
        filters,
        retained,
    ]
}

/// The budget in bytes; `None` when there is none.
fn budget(config: &Config, facts: &Facts) -> Option<u64> {
    Some(config.limits.budget().bytes(facts.memory_budget())).filter(|&bytes| bytes != u64::MAX)
}

/// Whether what clients may make the broker hold fits in this host.
pub(super) fn memory_budget(facts: &Facts, config: &Config, clients: u64) -> Finding {
    let check = "limits.memory";
    let all = worst(config, clients)
        .iter()
        .try_fold(0_u64, |sum, worst| Some(sum.saturating_add(worst.bytes?)));
    let all = all.map_or("without a bound".to_owned(), |all| format!("{} at worst", bytes(all)));
    let settings = format!("settings for {} clients: {all}", count(clients));
    let Some(budget) = budget(config, facts) else {
        let known = config.limits.budget() == MemoryBudget::Unlimited;
        let found = if known { "unlimited" } else { "auto, and free memory is unreadable" };
        let needed = format!("a budget; {settings}");
        return Finding::new(check, Severity::Warning, found, needed)
            .fixed_by(Fix::configuration("limits.memory: auto, or a size"));
    };
    let auto = config.limits.budget() == MemoryBudget::Auto;
    let how = if auto { "auto: three quarters of what is free" } else { "as configured" };
    let found = format!("{} ({how}); {settings}", bytes(budget));
    match facts.memory_left() {
        Some(left) if budget > left => {
            let needed = format!("at most the {} that are free", bytes(left));
            Finding::new(check, Severity::Warning, found, needed)
                .fixed_by(Fix::configuration("limits.memory: auto, or a smaller size"))
        }
        _ => Finding::new(check, Severity::Fine, found, "within what is free"),
    }
}
