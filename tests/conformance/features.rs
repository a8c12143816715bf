//! Features switched off: announced in CONNACK, refused with the right code.

use crate::support::reason::*;
use crate::support::*;

/// The code that answers a subscription, in SUBACK or in DISCONNECT.
#[track_caller]
fn refusal(c: &mut Client, mut subscribe: Subscribe) -> u8 {
    subscribe.id = 1;
    c.send(&subscribe.encode(c.version));
    match c.next() {
        Packet::SubAck { codes, .. } => codes[0],
        Packet::Disconnect { reason, .. } => {
            c.expect_closed();
            reason
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_retain() {
    let broker = Broker::shared(&["mqtt.retain=false"]);
    let topic = unique("t");
    let (mut c, answer) = Connect::new(V5, unique("c")).open_with(broker);
    assert_eq!(answer.property(37), Some(&Property::RetainAvailable(0)));
    c.publish(&Publish::new(&topic, 1, "ordinary"));
    c.send_publish(&Publish::new(&topic, 1, "x").retain());
    c.expect_disconnect(&[RETAIN_NOT_SUPPORTED]);
    // [MQTT-3.2.2-13]
    let will = Publish::new(&topic, 0, "x").retain();
    Connect::new(V5, unique("c")).will(will).refused(broker, RETAIN_NOT_SUPPORTED);
    Client::subscriber(broker, V5, &unique("s"), &topic, 0).expect_nothing();
    // MQTT 3 has no code for it: refused or not, nothing may be stored.
    let mut c = Client::connect(broker, V311, &unique("c"));
    c.send_publish(&Publish::new(&topic, 1, "x").retain());
    c.read(patience());
    Client::subscriber(broker, V311, &unique("s"), &topic, 0).expect_nothing();
}

#[test]
fn with_a_lower_maximum_qos() {
    for maximum in 0..=1 {
        let broker = Broker::shared(&[&format!("mqtt.max_qos={maximum}")]);
        let topic = unique("t");
        let (mut c, answer) = Connect::new(V5, unique("c")).open_with(broker);
        assert_eq!(answer.property(36), Some(&Property::MaximumQos(maximum)));
        // [MQTT-3.2.2-10]: asking for more is allowed, and granted in part.
        for asked in 0..=2 {
            let codes = c.subscribe(Subscribe::to(&topic, asked));
            assert_eq!(codes, [asked.min(maximum)]);
        }
        c.publish(&Publish::new(&topic, maximum, "x"));
        assert_eq!(c.expect("x").qos, maximum);
        c.send_publish(&Publish::new(&topic, maximum + 1, "x"));
        c.expect_disconnect(&[QOS_NOT_SUPPORTED]);
        // [MQTT-3.2.2-12]
        let will = Publish::new(&topic, maximum + 1, "x");
        Connect::new(V5, unique("c")).will(will).refused(broker, QOS_NOT_SUPPORTED);
        let mut old = Client::connect(broker, V311, &unique("c"));
        assert_eq!(old.subscribe(Subscribe::to(&topic, 2)), [maximum]);
    }
}

#[test]
fn without_wildcards() {
    let broker = Broker::shared(&["mqtt.wildcard_subscriptions=false"]);
    for filter in ["a/#", "a/+", "#", "+", "$share/g/a/#"] {
        let (mut c, answer) = Connect::new(V5, unique("c")).open_with(broker);
        assert_eq!(answer.property(40), Some(&Property::WildcardAvailable(0)));
        assert_eq!(refusal(&mut c, Subscribe::to(filter, 0)), WILDCARDS_NOT_SUPPORTED);
        let mut old = Client::connect(broker, V311, &unique("c"));
        assert_eq!(old.subscribe(Subscribe::to(filter, 0)), [UNSPECIFIED]);
    }
    Client::subscriber(broker, V5, &unique("c"), "a/b", 0).ping();
}

#[test]
fn without_shared_subscriptions() {
    let broker = Broker::shared(&["mqtt.shared_subscriptions=false"]);
    let (mut c, answer) = Connect::new(V5, unique("c")).open_with(broker);
    assert_eq!(answer.property(42), Some(&Property::SharedAvailable(0)));
    assert_eq!(refusal(&mut c, Subscribe::to("$share/g/a", 0)), SHARED_NOT_SUPPORTED);
    Client::subscriber(broker, V5, &unique("c"), "a/#", 0).ping();
}

#[test]
fn without_subscription_identifiers() {
    let broker = Broker::shared(&["mqtt.subscription_identifiers=false"]);
    let (mut c, answer) = Connect::new(V5, unique("c")).open_with(broker);
    assert_eq!(answer.property(41), Some(&Property::SubscriptionIdsAvailable(0)));
    let code = refusal(&mut c, Subscribe::to("a", 0).numbered(1));
    assert_eq!(code, SUBSCRIPTION_IDS_NOT_SUPPORTED);
    Client::subscriber(broker, V5, &unique("c"), "a", 0).ping();
}
