//! Tests of property blocks that the tests of the packets do not cover.

use super::super::properties::Reasons;
use super::*;

#[test]
fn a_user_property_block_can_be_built_and_read() {
    let mut raw = Vec::new();
    assert!(UserProperties::parse(&raw).unwrap().is_empty());
    append_user_property(&mut raw, "a", "1").unwrap();
    append_user_property(&mut raw, "", "").unwrap();
    append_user_property(&mut raw, "a", "2").unwrap();
    let user = UserProperties::parse(&raw).unwrap();
    assert!(!user.is_empty());
    assert_eq!(user.into_iter().collect::<Vec<_>>(), [("a", "1"), ("", ""), ("a", "2")]);
    assert_eq!(format!("{user:?}"), r#"[("a", "1"), ("", ""), ("a", "2")]"#);
    assert!(UserProperties::parse(&raw[..raw.len() - 1]).is_err());
    assert!(UserProperties::parse(b"\x1F\0\0").is_err());
}

#[test]
fn user_properties_are_compared_by_what_they_say() {
    let among = Reasons::parse(b"\x1F\0\x01r\x26\0\x01k\0\x01v").unwrap();
    let alone = UserProperties::parse(b"\x26\0\x01k\0\x01v").unwrap();
    assert_eq!(among.user, alone);
    assert_ne!(alone, UserProperties::default());
    // Without such a property the view is empty, even if the block has other properties.
    assert!(Reasons::parse(b"\x1F\0\x01r").unwrap().user.is_empty());
}

#[test]
fn identifiers_and_user_properties_are_picked_from_among_the_others() {
    let raw = b"\x0B\x01\x26\0\x01k\0\x01v\x02\0\0\0\x01\x0B\xFF\xFF\xFF\x7F\x26\0\0\0\0";
    let properties = PublishProperties::parse(raw).unwrap();
    let ids = properties.subscription_ids;
    assert!(!ids.is_empty());
    assert_eq!(ids.into_iter().collect::<Vec<_>>(), [1, 268_435_455]);
    assert_eq!(format!("{ids:?}"), "[1, 268435455]");
    assert_eq!(properties.user.iter().collect::<Vec<_>>(), [("k", "v"), ("", "")]);
    let mut out = b"x".to_vec();
    properties.write_forwardable(&mut out);
    assert_eq!(out, b"x\x26\0\x01k\0\x01v\x26\0\0\0\0");
}

#[test]
fn a_will_delay_is_not_forwarded() {
    let (properties, delay) = PublishProperties::parse_will(b"\x18\0\0\0\x07\x01\x01").unwrap();
    assert_eq!(delay, 7);
    assert!(!properties.is_forwardable_raw());
    let mut out = Vec::new();
    properties.write_forwardable(&mut out);
    assert_eq!(out, b"\x01\x01");
}

#[test]
fn nothing_is_forwardable_when_there_is_nothing() {
    let properties = PublishProperties::default();
    assert!(properties.is_forwardable_raw());
    let mut out = Vec::new();
    properties.write_forwardable(&mut out);
    assert!(out.is_empty());
}
