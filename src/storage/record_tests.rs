//! Tests that records are decoded as they were encoded, and that nothing else is decoded.

use super::*;
use proptest::prelude::*;

const SECRET: StoreSecret = StoreSecret([3, 4]);

/// A record of each kind.
pub(crate) fn samples() -> Vec<Record<'static>> {
    let body = StoredMessage {
        topic: "a/b",
        properties: b"\x01\x01",
        payload: b"payload",
        expires: u64::MAX,
        flags: 5,
        accounts: 0,
        stamp: 0,
    };
    let session = StoredSession {
        session: 9,
        client_id: "client",
        mountpoint: "dev/",
        expiry: 3600,
        ends: 17,
        level: 5,
        bridge: false,
    };
    vec![
        Record::Session(session),
        Record::End { session: 9 },
        Record::Subscribed { session: 9, filter: "a/#", options: 2, subscription_id: 7 },
        Record::Unsubscribed { session: 9, filter: "a/#" },
        Record::Put { message: 12, body },
        Record::Fan { session: 9, slot: 3, message: 12, flags: 1, ids: &[1, 0, 0, 0], share: "" },
        Record::State { session: 9, slot: 3, packet: 65_535, phase: DeliveryPhase::Released },
        Record::Ack { session: 9, slot: 3 },
        Record::Inbound { session: 9, packet: 5 },
        Record::Outbound { session: 9, packet: 5 },
        Record::Retain(body),
        Record::Unretain { topic: "a/b" },
        Record::Will { session: 9, delay: 5, lifetime: 6, due: 8, body },
        Record::NoWill { session: 9 },
        Record::Nothing,
    ]
}

/// Retained messages of the same topic, with and without the optional fields.
fn retained() -> Vec<Record<'static>> {
    let of = |accounts, stamp| {
        let body = StoredMessage {
            topic: "a/b",
            properties: &[1, 0],
            payload: b"payload",
            expires: 1,
            flags: 5,
            accounts,
            stamp,
        };
        Record::Retain(body)
    };
    vec![of(7 << 32, 0), of(0, 1 << 50), of(1, 1 << 50)]
}

#[test]
fn every_kind_is_read_as_it_was_written_and_in_no_other_length() {
    for record in samples().into_iter().chain(retained()) {
        let mut bytes = Vec::new();
        let length = record.encode(&mut bytes);
        assert_eq!(decode(&bytes), Ok((record, length)));
        let is_state = matches!(record, Record::State { .. });
        assert!(!is_state || length == STATE_LENGTH as usize, "{record:?}: {length}");
        for cut in 0..length {
            assert_eq!(decode(&bytes[..cut]), Err(NoRecord::Short), "{record:?} cut at {cut}");
        }
        bytes.push(0);
        let longer = u32::try_from(length - PREFIX + 1).expect("short").to_le_bytes();
        bytes[1..PREFIX].copy_from_slice(&longer);
        assert_eq!(decode(&bytes), Err(NoRecord::Malformed(bytes[0])), "{record:?} longer");
    }
}

#[test]
fn unknown_kinds_are_refused() {
    for kind in [0, 16, 255] {
        assert_eq!(decode(&[kind, 0, 0, 0, 0]), Err(NoRecord::Unknown(kind)));
    }
}

#[test]
fn what_takes_a_value_out_has_the_key_of_what_put_it_in_and_others_differ() {
    let effects: Vec<Effect> = samples().iter().map(|record| record.effect(SECRET)).collect();
    let pairs = [(0, 1), (2, 3), (8, 9), (10, 11), (12, 13)];
    let [fan, state] = slot_keys(9, 3);
    assert_eq!(effects[5..8], [Effect::Put(fan), Effect::Put(state), Effect::TakeSlot(9, 3)]);
    for (put, take) in pairs {
        let Effect::Put(key) = effects[put] else { panic!("{put} puts") };
        assert_eq!(effects[take], Effect::Take(key));
    }
    let mut keys: Vec<RecordKey> = effects
        .iter()
        .filter_map(|effect| if let Effect::Put(key) = effect { Some(*key) } else { None })
        .collect();
    keys.sort();
    let count = keys.len();
    keys.dedup();
    assert_eq!((keys.len(), count), (8, 8));
}

proptest! {
    #[test]
    fn any_bytes_are_a_record_that_encodes_to_them_or_none(
        kind in 0u8..20, body in proptest::collection::vec(any::<u8>(), 0..80)
    ) {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&body);
        if let Ok((record, length)) = decode(&bytes) {
            let mut again = Vec::new();
            prop_assert_eq!(record.encode(&mut again), length);
            prop_assert_eq!(again, bytes);
        }
    }
}
