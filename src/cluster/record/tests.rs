use super::*;
use crate::limits::CLUSTER_HOPS;
use crate::message::Retain;
use crate::packet::Qos;
use crate::time::Instant;
use proptest::prelude::*;

fn message() -> MessageRef<'static> {
    MessageRef {
        topic: "a/b",
        properties: &[1, 1],
        payload: b"hello",
        qos: Qos::ExactlyOnce,
        retain: true,
        expires: Some(Instant(7000)),
        publisher: None,
    }
}

fn passed() -> PassedRef<'static> {
    let (asks, hops) = (PassedFor::Any, CLUSTER_HOPS + 1);
    PassedRef { asks, hops, name: "$share/g/a/#", message: message() }
}

fn will() -> WillRef<'static> {
    let message = MessageRef { expires: None, ..message() };
    let due = WillDue::After(u32::MAX);
    WillRef { stamp: 3, due, message_expiry: None, client: "client", message }
}

fn written(record: NodeRecord<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.write(&mut bytes);
    bytes
}

#[test]
fn records_come_back_as_they_were_written() {
    for record in [
        NodeRecord::Message(message()),
        NodeRecord::Message(MessageRef { expires: None, payload: b"", ..message() }),
        NodeRecord::Stamped(Retain::NEWEST, message()),
        NodeRecord::Retained(Retain::OLDEST, MessageRef { payload: b"", ..message() }),
        NodeRecord::Passed(passed()),
        NodeRecord::Passed(PassedRef { asks: PassedFor::Back, hops: 0, ..passed() }),
        NodeRecord::Filter(7, "a/+/#"),
        NodeRecord::Filter(8, "$share/g/a/+"),
        NodeRecord::NoFilter(0),
        NodeRecord::AllFilters(CLUSTER_FILTERS as u32, 3),
        NodeRecord::Claim(1 << 60, 9, SessionDemand::Left, "client"),
        NodeRecord::Answer(3, ClaimVerdict::Holds),
        NodeRecord::Session(3, b"session"),
        NodeRecord::Owed(3, b"filters"),
        NodeRecord::Part(3, true, b""),
        NodeRecord::Fence(u64::MAX, "node-1"),
        NodeRecord::Fenced(4, "node-2"),
        NodeRecord::Settled(5),
        NodeRecord::Ask(6),
        NodeRecord::Known(7),
        NodeRecord::Will(will()),
        NodeRecord::Will(WillRef {
            due: WillDue::At(Instant(5)),
            message_expiry: Some(9),
            ..will()
        }),
        NodeRecord::StoredWill(will()),
        NodeRecord::Adopted("node-3"),
        NodeRecord::NoWill("client"),
        NodeRecord::NoWills,
        NodeRecord::WillSent(8, "node-2", "client"),
    ] {
        let bytes = written(record);
        let read = NodeRecord::read(&bytes).unwrap();
        assert_eq!(format!("{read:?}"), format!("{record:?}"));
        assert_eq!(NodeRecord::level_of(&bytes), record.level());
    }
}

#[test]
fn what_no_node_may_say_is_malformed() {
    let deep = "a/".repeat(MAX_TOPIC_LEVELS);
    for record in [
        NodeRecord::Message(MessageRef { topic: "", ..message() }),
        NodeRecord::Message(MessageRef { topic: "a/#", ..message() }),
        NodeRecord::Message(MessageRef { topic: "$SYS/broker/uptime", ..message() }),
        NodeRecord::Message(MessageRef { topic: &deep, ..message() }),
        // A Topic Alias is valid between a client and its broker only; the second example is
        // cut short.
        NodeRecord::Message(MessageRef { properties: &[35, 0, 1], ..message() }),
        NodeRecord::Message(MessageRef { properties: &[1], ..message() }),
        NodeRecord::Stamped(Retain::NEWEST + 1, message()),
        NodeRecord::Stamped(7, MessageRef { retain: false, ..message() }),
        NodeRecord::Retained(1, message()),
        NodeRecord::Filter(1, "a/#/b"),
        NodeRecord::Filter(1, "$SYS/#"),
        NodeRecord::Filter(1, "$share/g/$SYS/#"),
        NodeRecord::Filter(1, "$share/g"),
        NodeRecord::Filter(1, "$share//a"),
        NodeRecord::Passed(PassedRef { name: "a/#", ..passed() }),
        NodeRecord::Passed(PassedRef { name: "$share/g+/a", ..passed() }),
        NodeRecord::Passed(PassedRef { hops: CLUSTER_HOPS + 2, ..passed() }),
        NodeRecord::Passed(PassedRef {
            message: MessageRef { topic: "a/#", ..message() },
            ..passed()
        }),
        NodeRecord::Filter(1, &deep),
        NodeRecord::Filter(CLUSTER_FILTERS as u32, "a"),
        NodeRecord::NoFilter(u32::MAX),
        NodeRecord::AllFilters(CLUSTER_FILTERS as u32 + 1, 0),
        NodeRecord::Claim(1, 1, SessionDemand::Moved, ""),
        NodeRecord::Fence(1, "no.name"),
        NodeRecord::Fenced(1, ""),
        NodeRecord::Will(WillRef { client: "", ..will() }),
        NodeRecord::Will(WillRef { message: message(), ..will() }),
        NodeRecord::Will(WillRef {
            message: MessageRef { topic: "$SYS/a", ..will().message },
            ..will()
        }),
        NodeRecord::StoredWill(WillRef { client: "", ..will() }),
        NodeRecord::Adopted("no.name"),
        NodeRecord::NoWill(""),
        NodeRecord::WillSent(1, "no.name", "client"),
        NodeRecord::WillSent(1, "node-1", ""),
    ] {
        assert!(NodeRecord::read(&written(record)).is_err(), "{record:?}");
    }
    let mut flags = written(NodeRecord::Message(message()));
    flags[1] = 3;
    assert!(NodeRecord::read(&flags).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(
        kind in 0..25u8,
        bytes in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let bytes = [&[kind], &bytes[..]].concat();
        if let Ok(record) = NodeRecord::read(&bytes) {
            prop_assert_eq!(written(record), bytes);
        }
    }
}
