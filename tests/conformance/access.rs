//! Accounts and rules: who is let in, what is refused with which code, and what is not done then.

use std::fs;

use crate::support::reason::*;
use crate::support::*;

/// Password `apple`, as `mosquitto_passwd` hashed it.
const ANN: &str = "ann:$7$101$E3v4eal5nYq92zGe$NCDFVOLrqpQ5G0F/+js91YA62527hqJHEtvJXx9cYV5XaZao4riA\
                   rHMyECOgiVVxC5a/xsHpC/PVdTZciF2qrg==\n";
const RULES: &str = "\
user ann
topic readwrite ok/#
topic read shown/#
topic write sent/#
topic deny ok/secret/#
";

/// Files that live as long as the process: the brokers are shared.
fn file(name: &str, text: &str) -> String {
    let path = std::env::temp_dir().join(unique(name));
    fs::write(&path, text).expect("a temporary file");
    path.display().to_string()
}

struct Files {
    chain: String,
    rules: String,
}

fn files() -> &'static Files {
    static FILES: std::sync::OnceLock<Files> = std::sync::OnceLock::new();
    FILES.get_or_init(|| Files {
        chain: format!(
            "access.authentication=[{{password_file: {{path: {}}}}}]",
            file("users", ANN)
        ),
        rules: format!("access.authorization=[{{acl_file: {{path: {}}}}}]", file("acl", RULES)),
    })
}

fn broker() -> &'static Broker {
    Broker::shared(&[&files().chain, &files().rules])
}

fn ann(version: Version) -> Connect {
    Connect::new(version, unique("ann")).login(Some("ann"), Some("apple"))
}

#[test]
fn a_wrong_password_and_an_unknown_user_are_told_the_same() {
    for v in all() {
        let wrong = if v.is_v5() { BAD_CREDENTIALS } else { 4 };
        for (user, password) in [("ann", "pear"), ("ann", ""), ("eve", "apple")] {
            let connect = Connect::new(v, unique("c")).login(Some(user), Some(password));
            connect.refused(broker(), wrong);
        }
        let anonymous = if v.is_v5() { NOT_AUTHORIZED } else { 5 };
        Connect::new(v, unique("c")).refused(broker(), anonymous);
        ann(v).open(broker()).ping();
    }
}

#[test]
fn a_refused_client_takes_over_nothing() {
    for v in both() {
        let connect = ann(v);
        let mut live = connect.open(broker());
        let code = if v.is_v5() { BAD_CREDENTIALS } else { 4 };
        connect.clone().login(Some("ann"), Some("pear")).refused(broker(), code);
        live.ping();
    }
}

/// [MQTT-3.3.5-2] of 3.1.1: acknowledged as usual, or closed; version 5 has a code for it.
#[test]
fn what_may_not_be_published_goes_nowhere() {
    for v in all() {
        let topic = format!("ok/secret/{}", unique("t"));
        let mut c = ann(v).open(broker());
        for qos in 0..=2 {
            let code = c.publish_code(&Publish::new(&topic, qos, "x").retain());
            let expected = if v.is_v5() && qos > 0 { NOT_AUTHORIZED } else { SUCCESS };
            assert_eq!(code, expected, "QoS {qos}");
        }
        c.ping();
    }
    // Nothing was retained: whoever may read it finds nothing.
    let open = Broker::shared(&[&files().chain]);
    ann(V5).open(open).ping();
}

#[test]
fn an_mqtt_3_client_is_disconnected_where_the_policy_says_so() {
    let broker = Broker::shared(&[&files().chain, &files().rules, "access.on_deny=disconnect"]);
    for v in all() {
        let mut c = ann(v).open(broker);
        let id = c.send_publish(&Publish::new("elsewhere", 1, "x"));
        if v.is_v5() {
            assert_eq!(c.ack(AckKind::PubAck, id).reason, NOT_AUTHORIZED);
            c.ping();
        } else {
            c.expect_closed();
        }
    }
}

#[test]
fn each_filter_is_decided_by_itself() {
    for v in both() {
        let refused = if v.is_v5() { NOT_AUTHORIZED } else { UNSPECIFIED };
        let mut c = ann(v).open(broker());
        let filters = [
            ("shown/a", 1),
            ("shown/#", 1),
            ("#", refused),
            ("ok/#", refused), // it would bring what is denied
            ("ok/fine/+", 1),
            ("sent/a", refused),
            ("$share/g/shown/a", 1),
            ("$share/g/sent/a", refused),
            ("$SYS/broker/uptime", refused),
        ];
        let mut subscribe = Subscribe::to(filters[0].0, 1);
        for (filter, _) in &filters[1..] {
            subscribe = subscribe.and(*filter, 1);
        }
        let expected: Vec<u8> = filters.iter().map(|(_, code)| *code).collect();
        assert_eq!(c.subscribe(subscribe), expected);
    }
}

#[test]
fn a_will_that_may_not_be_published_refuses_its_connect() {
    for v in both() {
        let code = if v.is_v5() { NOT_AUTHORIZED } else { 5 };
        ann(v).will(Publish::new("shown/x", 1, "gone")).refused(broker(), code);
        ann(v).will(Publish::new("sent/x", 1, "gone")).open(broker()).ping();
    }
}

/// A new file takes effect for clients that are connected; an invalid one changes nothing.
#[test]
fn a_reload_applies_to_live_clients() {
    let (users, rules) = (file("users", ANN), file("acl", "user ann\ntopic a/#\n"));
    let broker = Broker::start(&[
        &format!("access.authentication=[{{password_file: {{path: {users}}}}}]"),
        &format!("access.authorization=[{{acl_file: {{path: {rules}}}}}]"),
    ]);
    let mut c = ann(V5).open(&broker);
    c.granted("a/b", 1);
    c.publish(&Publish::new("a/b", 1, "before"));
    c.expect("before");
    fs::write(&rules, "nonsense\n").expect("it can be written");
    broker.signal("-HUP");
    eventually("the reload is refused", || broker.log().contains("nothing changed"));
    assert!(broker.log().contains(&format!("{rules}:1: `nonsense`")), "{}", broker.log());
    c.publish(&Publish::new("a/b", 1, "still"));
    c.expect("still");
    fs::write(&rules, "user ann\ntopic write a/#\n").expect("it can be written");
    broker.signal("-HUP");
    eventually("the subscription ends", || broker.log().contains("subscription ended"));
    c.publish(&Publish::new("a/b", 1, "after"));
    c.expect_nothing();
    assert_eq!(c.subscribe(Subscribe::to("a/b", 1)), [NOT_AUTHORIZED]);
}
