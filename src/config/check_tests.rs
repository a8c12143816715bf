//! Tests of the rules that relate several keys.

use std::time::Duration;

use super::super::Get;
use super::super::tests::read;

#[test]
fn anonymous_clients_are_accepted_by_default_only_while_every_listener_is_on_loopback() {
    let cases = [
        ("listeners: [{bind: 127.0.0.1:1}]", vec![true]),
        ("listeners: [{bind: 127.9.9.9:1}, {name: b, bind: \"[::1]:1\"}]", vec![true, true]),
        ("listeners: [{type: unix, bind: /x}]", vec![true]),
        ("listeners: [{bind: 0.0.0.0:1}]", vec![false]),
        ("listeners: [{bind: \"[::]:1\"}]", vec![false]),
        ("listeners: [{bind: 127.0.0.1:1}, {name: b, bind: 10.0.0.1:1}]", vec![false, false]),
        ("listeners: [{bind: 0.0.0.0:1, allow_anonymous: true}]", vec![true]),
        ("listeners: [{bind: 127.0.0.1:1, allow_anonymous: false}]", vec![false]),
        ("listeners: [{bind: 0.0.0.0:1, allow_anonymous: auto}]", vec![false]),
        ("listeners: [{bind: 1883}]", vec![false]),
        (
            "trusted_proxies: [127.0.0.1]\nlisteners: [{bind: 127.0.0.1:1, proxy_protocol: v2}]",
            vec![false],
        ),
    ];
    for (text, expected) in cases {
        let config = read(text).unwrap();
        let found: Vec<bool> = config.listeners.iter().map(|l| l.allows_anonymous()).collect();
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn rules_between_keys_are_reported_where_they_were_broken() {
    let long = "/".repeat(108);
    let unix = format!("listeners:\n  - {{type: unix, bind: {long}}}\n");
    let cases: &[(&str, &[&str])] = &[
        (
            "listeners:\n  - name: a\n  - name: a\n    bind: 127.0.0.1:2\n",
            &["f.yaml:3: listeners.1.name: listeners.0 is also called `a`; "],
        ),
        (
            "listeners:\n  - name: a\n  - name: b\n",
            &["f.yaml:3: listeners.1.bind: listeners.0 is bound to 127.0.0.1:1883 too; "],
        ),
        (
            "listeners:\n  - {type: unix}\n",
            &["f.yaml:2: listeners.0.bind: a unix listener needs a path, not 127.0.0.1:1883; "],
        ),
        (
            "listeners:\n  - {bind: /run/x}\n",
            &["f.yaml:2: listeners.0.bind: `/run/x` is a path, but the listener's type is tcp; "],
        ),
        (&unix, &["f.yaml:2: listeners.0.bind: the path has 108 bytes; use a path of at most 107"]),
        (
            "admin:\n  bind: 127.0.0.1:1883\n",
            &["f.yaml:2: admin.bind: listeners.0 is bound to 127.0.0.1:1883 too; "],
        ),
        (
            "listeners: [{bind: 127.0.0.1:1}]\nadmin: {pages_bind: 0.0.0.0:1}\n",
            &["f.yaml:2: admin.pages_bind: listeners.0 is bound to 0.0.0.0:1 too; "],
        ),
        (
            "mqtt:\n  session_expiry: {default: 2h, max: 1h}\n",
            &["f.yaml:2: mqtt.session_expiry.default: it is longer than mqtt.session_expiry.max; "],
        ),
        (
            "listeners:\n  - {mountpoint: \"a/+/\"}\n",
            &["f.yaml:2: listeners.0.mountpoint: a mountpoint cannot have + or #; "],
        ),
        (
            "listeners:\n  - {mountpoint: $SYS/}\n",
            &["f.yaml:2: listeners.0.mountpoint: topics that begin with $ belong to the broker; "],
        ),
        (
            "listeners:\n  - {mountpoint: \"a/${clientid}/\"}\n",
            &["f.yaml:2: listeners.0.mountpoint: ${clientid} is not a placeholder; use \
                 ${client_id}"],
        ),
        (
            "listeners:\n  - {mountpoint: \"a/${client_id/\"}\n",
            &["f.yaml:2: listeners.0.mountpoint: a placeholder has no closing }; "],
        ),
        (
            "listeners:\n  - {mountpoint: dev}\n",
            &["f.yaml:2: listeners.0.mountpoint: a mountpoint must end with /; write dev/"],
        ),
        (
            "listeners:\n  - {mountpoint: \"${client_id}\"}\n",
            &["f.yaml:2: listeners.0.mountpoint: a mountpoint must end with /; write ${"],
        ),
        (
            "listeners:\n  - {mountpoint: \"dev/\u{fc}\"}\n",
            &["f.yaml:2: listeners.0.mountpoint: a mountpoint must end with /; write dev/\u{fc}/"],
        ),
        // A value that is wrong by itself is not judged again against other keys.
        (
            "listeners:\n  - {bind: nonsense}\n  - {name: b}\n",
            &["f.yaml:2: listeners.0.bind: `nonsense`"],
        ),
        (
            "listeners:\n  - {name: \"\"}\n  - {bind: 127.0.0.1:2}\n",
            &["f.yaml:2: listeners.0.name: "],
        ),
        ("listeners:\n  - {type: tlz, bind: /x}\n", &["f.yaml:2: listeners.0.type: "]),
        (
            "listeners:\n  - {type: tls}\n",
            &["f.yaml:2: listeners.0.tls.certificate: ", "f.yaml:2: listeners.0.tls.private_key: "],
        ),
        (
            "listeners:\n  - {tls: {certificate: a}}\n",
            &["f.yaml:2: listeners.0.tls: a listener of type tcp has no tls; "],
        ),
        (
            "listeners:\n  - type: tls\n    tls:\n      certificate: a\n      private_key: b\n\
             \x20     crl: [c]\n      versions: []\n      sni: [{certificate: d}]\n",
            &[
                "f.yaml:6: listeners.0.tls.crl: clients are not asked for certificates; ",
                "f.yaml:7: listeners.0.tls.versions: the list is empty; ",
                "f.yaml:8: listeners.0.tls.sni.0.private_key: no file is named; ",
                "f.yaml:8: listeners.0.tls.sni.0.names: no name is given; ",
            ],
        ),
        (
            "listeners: [{path: /x, origins: [https://a.example]}]",
            &[
                "f.yaml:1: listeners.0.path: a listener of type tcp has no path; ",
                "f.yaml:1: listeners.0.origins: a listener of type tcp has no origins; ",
            ],
        ),
        (
            "listeners: [{type: ws, mode: \"0600\", owner: a, group: b}]",
            &[
                "f.yaml:1: listeners.0.mode: a listener of type ws has no mode; ",
                "f.yaml:1: listeners.0.owner: ",
                "f.yaml:1: listeners.0.group: ",
            ],
        ),
        (
            "listeners: [{bind: 0.0.0.0:1, v6only: true}]",
            &["f.yaml:1: listeners.0.v6only: only a listener on [::] could take IPv4 clients"],
        ),
        (
            "listeners: [{proxy_protocol: v2}]",
            &["f.yaml:1: listeners.0.proxy_protocol: nobody could connect, because trusted_"],
        ),
        (
            "trusted_proxies: [10.0.0.1]\nlisteners: [{proxy_protocol: v1, proxy_username: cn}]",
            &["f.yaml:2: listeners.0.proxy_username: only a PROXY header of version 2 tells of"],
        ),
        (
            "trusted_proxies: [10.0.0.0/33]",
            &["f.yaml:1: trusted_proxies: the prefix of `10.0.0.0/33` is none of that address"],
        ),
        (
            "listeners: [{type: ws, origins: [app.example]}]",
            &["f.yaml:1: listeners.0.origins: `app.example` is no origin; write it as browsers"],
        ),
        (
            "listeners: [{type: unix, bind: /x, mode: \"0680\"}]",
            &["f.yaml:1: listeners.0.mode: `0680` is no mode of a file; write three octal digits"],
        ),
    ];
    for (text, expected) in cases {
        let found = read(text).unwrap_err();
        assert_eq!(found.len(), expected.len(), "{text}: {found:#?}");
        for (found, expected) in found.iter().zip(*expected) {
            assert!(
                found.starts_with(expected),
                "{text}\n  found    {found}\n  expected {expected}"
            );
        }
    }
}

#[test]
fn addresses_overlap_when_both_cannot_be_bound() {
    let cases = [
        ("127.0.0.1:1", "127.0.0.1:1", true),
        ("127.0.0.1:1", "127.0.0.1:2", false),
        ("127.0.0.1:1", "127.0.0.2:1", false),
        ("127.0.0.1:1", "0.0.0.0:1", true),
        ("0.0.0.0:1", "[::]:1", true),
        ("[::]:1", "127.0.0.1:1", true),
        ("[::]:1", "[::1]:1", true),
        ("127.0.0.1:0", "127.0.0.1:0", false),
    ];
    for (one, other, expected) in cases {
        let at = |text: &str| super::ListenerConfig {
            bind: super::Bind::Tcp(text.parse().unwrap()),
            ..super::ListenerConfig::default()
        };
        assert_eq!(super::overlap(&at(one), &at(other)), expected, "{one} {other}");
    }
    let text = "listeners: [{bind: 0.0.0.0:1}, {name: b, bind: \"[::]:1\", v6only: true}]";
    assert_eq!(read(text).unwrap().listeners.len(), 2);
}

#[test]
fn two_listeners_may_ask_the_kernel_for_a_port() {
    let text = "listeners: [{bind: 127.0.0.1:0}, {name: b, bind: 127.0.0.1:0}]";
    assert_eq!(read(text).unwrap().listeners.len(), 2);
}

#[test]
fn the_built_in_session_expiry_gives_way_to_a_shorter_maximum() {
    let config = read("mqtt: {session_expiry: {max: 1h}}").unwrap();
    assert_eq!(config.mqtt.session_expiry.default.get(), Some(Duration::from_secs(3600)));
    let config = read("mqtt: {session_expiry: {max: 1d}}").unwrap();
    assert_eq!(config.mqtt.session_expiry.default.get(), Some(Duration::from_secs(7200)));
}

#[test]
fn good_mountpoints_are_accepted() {
    for text in ["", "a/", "${client_id}/", "a/${username}/${client_id}/b/", "$${client_id}/"] {
        let accepted = read(&format!("listeners: [{{mountpoint: \"{text}\"}}]")).is_ok();
        assert_eq!(accepted, !text.starts_with("$$"), "{text}");
    }
}

#[test]
fn what_is_probably_not_meant_is_remarked() {
    let cases = [
        ("", 0),
        ("listeners: [{bind: 0.0.0.0:1}]", 1),
        ("listeners: [{mountpoint: \"${username}/\"}]", 1),
        ("mqtt: {max_packet_size: 2MiB}", 1),
        ("admin: {bind: 127.0.0.1:18083}", 0),
        ("admin: {bind: \"[::1]:0\"}", 0),
        ("admin: {pages_bind: 0.0.0.0:18083}", 1),
    ];
    for (text, expected) in cases {
        let remarks = read(text).unwrap().remarks();
        assert_eq!(remarks.len(), expected, "{text}: {remarks:?}");
    }
}
