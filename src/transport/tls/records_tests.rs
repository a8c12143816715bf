//! Tests of the record layer against rustls, and against a peer that breaks the rules.

use super::alert::Alert;
use super::keys::{KeyCache, TrafficKey};
use super::records::{HEADER, PLAIN, content};
use super::suite::Suite;
use super::testing::{Pair, client_config, usual};
use super::{Opened, Sealed, Tls, TlsFailureKind, provider};
use proptest::prelude::*;
use std::collections::HashSet;
use std::sync::Arc;

const SUITES: [Suite; 6] = [
    Suite::Tls13Aes128,
    Suite::Tls13Aes256,
    Suite::Tls13ChaCha20,
    Suite::Tls12Aes128,
    Suite::Tls12Aes256,
    Suite::Tls12ChaCha20,
];

/// A peer that can send anything, with the server's record layer at the other end.
struct Rogue {
    suite: Suite,
    secret: Vec<u8>,
    sequence: u64,
    tls: Tls,
    cache: KeyCache,
    plain: Vec<u8>,
    out: Vec<u8>,
}

impl Rogue {
    fn new(suite: Suite) -> Rogue {
        let secret: Vec<u8> = (0..suite.secret() as u8).collect();
        let other: Vec<u8> = secret.iter().map(|byte| byte ^ 0x55).collect();
        let tls = Tls::new(suite, (&secret, 0), (&other, 0), Default::default()).unwrap();
        let cache = KeyCache::default();
        Rogue { suite, secret, sequence: 0, tls, cache, plain: Vec::new(), out: Vec::new() }
    }

    fn record(&mut self, kind: u8, said: &[u8], padding: usize) -> Vec<u8> {
        let key = TrafficKey::derive(self.suite, &self.secret, None).unwrap();
        let nonce = key.nonce(self.sequence);
        let (mut plain, mut header, mut explicit) = (said.to_vec(), vec![kind, 3, 3], Vec::new());
        if self.suite.is_tls13() {
            plain.push(kind);
            plain.extend(std::iter::repeat_n(0, padding));
            header[0] = content::DATA;
        } else {
            explicit.extend_from_slice(&nonce[12 - self.suite.explicit()..]);
        }
        let length = (explicit.len() + plain.len() + 16) as u16;
        header.extend(length.to_be_bytes());
        let mut aad = header.clone();
        if !self.suite.is_tls13() {
            aad = self.sequence.to_be_bytes().to_vec();
            aad.extend([kind, 3, 3]);
            aad.extend((plain.len() as u16).to_be_bytes());
        }
        let mut sealed = vec![0; plain.len() + 16];
        assert!(key.seal(nonce, &aad, &plain, &[], &mut sealed));
        self.sequence += 1;
        [header, explicit, sealed].concat()
    }

    fn says(&mut self, kind: u8, said: &[u8]) -> Opened {
        let record = self.record(kind, said, 0);
        self.sends(&record)
    }

    fn sends(&mut self, bytes: &[u8]) -> Opened {
        self.plain.clear();
        self.out.clear();
        self.tls.layer().open(&mut self.cache, bytes, &mut self.plain, &mut self.out)
    }

    fn refused(&mut self, kind: u8, said: &[u8]) -> String {
        match self.says(kind, said) {
            Opened::Failed(failure) => failure.what.into_owned(),
            other => panic!("{other:?}"),
        }
    }
}

fn fails(opened: &Opened) -> bool {
    matches!(opened, Opened::Failed(_))
}

#[test]
fn a_record_that_is_not_genuine_ends_the_connection() {
    for suite in SUITES {
        let record = Rogue::new(suite).record(content::DATA, b"hello", 0);
        for at in 0..record.len() {
            let mut rogue = Rogue::new(suite);
            let mut changed = record.clone();
            changed[at] ^= 0x10;
            let opened = rogue.sends(&changed);
            assert!(at == 3 || fails(&opened) || rogue.plain.is_empty(), "{suite:?} byte {at}");
            assert!(rogue.plain.is_empty());
        }
        let mut rogue = Rogue::new(suite);
        assert_eq!(rogue.sends(&record), Opened::All);
        assert!(fails(&rogue.sends(&record)), "the same record again");
        assert!(!rogue.out.is_empty(), "the peer is told");
    }
}

#[test]
fn records_have_the_lengths_that_they_may_have() {
    for suite in SUITES {
        let mut rogue = Rogue::new(suite);
        assert_eq!(rogue.says(content::DATA, &vec![7; PLAIN]), Opened::All);
        assert_eq!(rogue.plain.len(), PLAIN);
        assert!(rogue.refused(content::DATA, &vec![7; PLAIN + 1]).contains("too long"));
        assert!(rogue.plain.is_empty());
        let mut rogue = Rogue::new(suite);
        let head = [content::DATA, 3, 3, 0xff, 0xff];
        assert!(fails(&rogue.sends(&head)), "nothing of it is waited for");
        let mut rogue = Rogue::new(suite);
        assert!(fails(&rogue.sends(&[content::DATA, 3, 3, 0, 3, 1, 2, 3])), "shorter than a tag");
    }
    let mut rogue = Rogue::new(Suite::Tls13Aes128);
    let record = rogue.record(content::DATA, &[7; PLAIN - 9], 9);
    assert_eq!(rogue.sends(&record), Opened::All, "padded to the limit");
    assert_eq!(rogue.plain.len(), PLAIN - 9);
    let record = rogue.record(content::DATA, &[7; PLAIN - 9], 10);
    assert!(fails(&rogue.sends(&record)), "padded beyond it");
    let mut rogue = Rogue::new(Suite::Tls13Aes128);
    assert!(rogue.refused(0, &[]).contains("without a type"));
}

#[test]
fn empty_records_warnings_and_key_updates_are_bounded() {
    for suite in SUITES {
        let mut rogue = Rogue::new(suite);
        for _ in 0..32 {
            assert_eq!(rogue.says(content::DATA, b""), Opened::All);
        }
        assert_eq!(rogue.says(content::DATA, b"x"), Opened::All);
        for _ in 0..32 {
            assert_eq!(rogue.says(content::DATA, b""), Opened::All);
        }
        assert!(rogue.refused(content::DATA, b"").contains("empty"));
        let mut rogue = Rogue::new(suite);
        for _ in 0..4 {
            assert_eq!(rogue.says(content::ALERT, &[1, 90]), Opened::All);
        }
        assert!(rogue.refused(content::ALERT, &[1, 90]).contains("warnings"));
    }
    let mut rogue = Rogue::new(Suite::Tls13Aes256);
    for _ in 0..2 {
        for _ in 0..32 {
            assert_eq!(rogue.says(content::HANDSHAKE, &[24, 0, 0, 1, 1]), Opened::All);
            rogue.update();
        }
        assert_eq!(rogue.says(content::DATA, b"x"), Opened::All);
    }
    for _ in 0..32 {
        assert_eq!(rogue.says(content::HANDSHAKE, &[24, 0, 0, 1, 0]), Opened::All);
        rogue.update();
    }
    assert!(rogue.refused(content::HANDSHAKE, &[24, 0, 0, 1, 0]).contains("KeyUpdates"));
}

#[test]
fn answers_to_key_updates_do_not_pile_up_before_a_peer_that_does_not_read() {
    let mut rogue = Rogue::new(Suite::Tls13Aes128);
    let mut answers = 0;
    for _ in 0..1000 {
        assert_eq!(rogue.says(content::HANDSHAKE, &[24, 0, 0, 1, 1]), Opened::All);
        answers += usize::from(!rogue.out.is_empty());
        rogue.update();
        assert_eq!(rogue.says(content::DATA, b"x"), Opened::All);
    }
    assert_eq!(answers, 16);
    let mut lengths = Vec::new();
    for _ in 0..2 {
        let mut out = Vec::new();
        assert_eq!(rogue.tls.layer().seal(&mut rogue.cache, b"data", &mut out), Sealed::All);
        lengths.push(out.len());
    }
    let update = HEADER + super::records::KEY_UPDATE.len() + 1 + 1 + 16;
    assert_eq!(lengths[0], lengths[1] + update, "the rest in one, before the next data");
}

impl Rogue {
    fn update(&mut self) {
        super::keys::update(self.suite, &mut self.secret).unwrap();
        self.sequence = 0;
    }
}

#[test]
fn a_key_update_may_come_in_pieces_but_nothing_between_or_behind() {
    let suite = Suite::Tls13Aes128;
    let mut rogue = Rogue::new(suite);
    for byte in [24, 0, 0, 1, 0] {
        assert_eq!(rogue.says(content::HANDSHAKE, &[byte]), Opened::All);
    }
    rogue.update();
    assert_eq!(rogue.says(content::DATA, b"new key"), Opened::All);
    let mut rogue = Rogue::new(suite);
    assert_eq!(rogue.says(content::HANDSHAKE, &[24, 0]), Opened::All);
    assert!(rogue.refused(content::DATA, b"x").contains("not finished"));
    for said in [&[24, 0, 0, 1, 2][..], &[24, 0, 0, 1, 0, 24], &[24, 0, 0, 2], &[4, 0], &[]] {
        assert!(fails(&Rogue::new(suite).says(content::HANDSHAKE, said)), "{said:?}");
    }
    let empty = Rogue::new(suite).refused(content::HANDSHAKE, &[24, 0, 0, 0]);
    assert!(empty.contains("another length"), "{empty}");
}

#[test]
fn alerts_end_a_connection_or_do_not() {
    for suite in SUITES {
        assert_eq!(Rogue::new(suite).says(content::ALERT, &[1, 0]), Opened::Closed);
        assert_eq!(Rogue::new(suite).says(content::ALERT, &[2, 0]), Opened::Closed);
        let mut rogue = Rogue::new(suite);
        let Opened::Failed(failure) = rogue.says(content::ALERT, &[2, 40]) else { panic!() };
        assert_eq!(failure.kind, TlsFailureKind::ClientAlert);
        assert!(rogue.out.is_empty(), "an alert is not answered");
        for said in [&[3, 0][..], &[1], &[], &[1, 0, 0]] {
            assert!(fails(&Rogue::new(suite).says(content::ALERT, said)), "{said:?}");
        }
        let strange = Rogue::new(suite).says(content::ALERT, &[1, 41]);
        assert_eq!(fails(&strange), suite.is_tls13(), "TLS 1.3 has no such warning");
    }
}

#[test]
fn a_second_handshake_is_declined_once() {
    for suite in SUITES.into_iter().filter(|suite| !suite.is_tls13()) {
        let mut rogue = Rogue::new(suite);
        assert_eq!(rogue.says(content::HANDSHAKE, &[1, 0, 0, 2, 3, 3]), Opened::All);
        assert_eq!(rogue.out[0], content::ALERT);
        assert!(rogue.refused(content::HANDSHAKE, &[1, 0, 0, 2, 3, 3]).contains("second attempt"));
        assert!(fails(&Rogue::new(suite).says(content::HANDSHAKE, &[20, 0, 0, 0])));
        assert!(fails(&Rogue::new(suite).sends(&[content::CHANGE_CIPHER_SPEC, 3, 3, 0, 1, 1])));
    }
}

#[test]
fn nothing_is_said_after_the_end() {
    for suite in SUITES {
        let mut rogue = Rogue::new(suite);
        let mut out = Vec::new();
        rogue.tls.layer().close(&mut rogue.cache, &mut out);
        let length = out.len();
        assert!(length > HEADER);
        rogue.tls.layer().close(&mut rogue.cache, &mut out);
        rogue.tls.layer().fail(&mut rogue.cache, Alert::INTERNAL_ERROR, &mut out);
        assert_eq!(rogue.tls.layer().seal(&mut rogue.cache, b"x", &mut out), Sealed::Exhausted);
        assert_eq!(out.len(), length);
        // Received records are still opened, and a KeyUpdate still changes the key of what is
        // received.
        if suite.is_tls13() {
            assert_eq!(rogue.says(content::HANDSHAKE, &[24, 0, 0, 1, 1]), Opened::All);
            assert!(rogue.out.is_empty());
            rogue.update();
        }
        assert_eq!(rogue.says(content::DATA, b"x"), Opened::All);
    }
}

#[test]
fn keys_are_worn_out_after_2_to_the_24_records() {
    let near = super::suite::GCM_RECORDS - 3;
    for suite in SUITES {
        let secret: Vec<u8> = (0..suite.secret() as u8).collect();
        let mut tls = Tls::new(suite, (&secret, 0), (&secret, near), Default::default()).unwrap();
        let (mut cache, mut out) = (KeyCache::default(), Vec::new());
        let outcomes: Vec<_> =
            (0..5).map(|_| tls.layer().seal(&mut cache, b"data", &mut out)).collect();
        let mut records = Vec::new();
        let mut rest = &out[..];
        while let [kind, _, _, high, low, ..] = *rest {
            records.push(kind);
            rest = &rest[HEADER + usize::from(u16::from_be_bytes([high, low]))..];
        }
        match suite {
            Suite::Tls13ChaCha20 | Suite::Tls12ChaCha20 => {
                assert_eq!((outcomes, records), (vec![Sealed::All; 5], vec![23; 5]));
            }
            Suite::Tls13Aes128 | Suite::Tls13Aes256 => {
                assert_eq!((outcomes, records.len()), (vec![Sealed::All; 5], 6), "a KeyUpdate");
            }
            _ => {
                assert_eq!(outcomes[1..3], [Sealed::All, Sealed::Exhausted]);
                assert_eq!(records, [23, 23, 21]);
            }
        }
    }
}

#[test]
fn a_key_update_of_ours_is_understood_by_rustls() {
    let (authority, files) = usual();
    let server = files.server("").unwrap();
    for suite in provider().cipher_suites.iter().filter(|suite| suite.tls13().is_some()) {
        let config = Arc::new(client_config(&authority, None, Some(*suite)));
        let mut pair = Pair::new(&config, &server);
        pair.shake().unwrap();
        for _ in 0..3 {
            // The client asks for one; ours is sent before the next data.
            pair.client.refresh_traffic_keys().unwrap();
            pair.talk();
        }
    }
}

#[test]
fn close_notify_goes_both_ways() {
    let (authority, files) = usual();
    let server = files.server("").unwrap();
    for suite in provider().cipher_suites.iter() {
        if format!("{suite:?}").contains("RSA") {
            continue;
        }
        let config = Arc::new(client_config(&authority, None, Some(*suite)));
        let mut pair = Pair::new(&config, &server);
        pair.shake().unwrap();
        pair.client.send_close_notify();
        let bytes = pair.client_says();
        pair.server_takes(&bytes).unwrap();
        assert_eq!(pair.opened, Opened::Closed);
        let mut out = pair.server_writes(b"last words");
        pair.tls.as_mut().unwrap().layer().close(&mut pair.cache, &mut out);
        assert_eq!(pair.client_takes(&out).unwrap(), b"last words");
    }
}

#[test]
fn keys_of_the_past_are_not_kept() {
    let suite = Suite::Tls13Aes128;
    let mut cache = KeyCache::default();
    let secret = |at: u32| {
        let mut secret = [0; 32];
        secret[..4].copy_from_slice(&at.to_le_bytes());
        secret
    };
    for at in 0..10_000 {
        cache.get(suite, &secret(at)).unwrap();
    }
    assert_eq!(cache.derived, 10_000);
    cache.get(suite, &secret(9999)).unwrap();
    assert_eq!(cache.derived, 10_000, "the last is there");
    cache.remove(suite, &secret(9999));
    cache.get(suite, &secret(9999)).unwrap();
    cache.get(suite, &secret(0)).unwrap();
    assert_eq!(cache.derived, 10_002, "the first has gone");
    assert!(cache.get(Suite::Tls13ChaCha20, &secret(9999)).is_some());
    assert_eq!(cache.derived, 10_003, "the same secret for another suite is another key");
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Seal(usize),
    Asked,
    Close,
    Fail,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (0..3 * PLAIN).prop_map(Act::Seal),
        3 => Just(Act::Asked),
        1 => Just(Act::Close),
        1 => Just(Act::Fail),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the order of the calls, no two records have the same key and number: each record
    /// can be opened by exactly the key and number that follow from the records before it.
    #[test]
    fn no_key_protects_two_records_with_one_number(
        suite in 0..SUITES.len(),
        acts in prop::collection::vec(act(), 0..40),
        start in prop_oneof![Just(0), Just(super::suite::GCM_RECORDS - 4)],
    ) {
        let suite = SUITES[suite];
        let mut rogue = Rogue::new(suite);
        let mut theirs: Vec<u8> = rogue.secret.iter().map(|byte| byte ^ 0x55).collect();
        rogue.tls =
            Tls::new(suite, (&rogue.secret, 0), (&theirs, start), Default::default()).unwrap();
        let mut sent = Vec::new();
        for act in acts {
            match act {
                Act::Seal(length) => {
                    _ = rogue.tls.layer().seal(&mut rogue.cache, &vec![9; length], &mut sent);
                }
                Act::Asked if suite.is_tls13() => {
                    if rogue.says(content::HANDSHAKE, &[24, 0, 0, 1, 1]) == Opened::All {
                        rogue.update();
                        sent.extend_from_slice(&rogue.out);
                    }
                }
                Act::Asked => {}
                Act::Close => rogue.tls.layer().close(&mut rogue.cache, &mut sent),
                Act::Fail => {
                    rogue.tls.layer().fail(&mut rogue.cache, Alert::DECODE_ERROR, &mut sent);
                }
            }
        }
        let (mut sequence, mut used, mut rest) = (start, HashSet::new(), &sent[..]);
        while let [kind, _, _, high, low, ..] = *rest {
            let length = HEADER + usize::from(u16::from_be_bytes([high, low]));
            let (record, behind) = rest.split_at(length);
            rest = behind;
            let key = TrafficKey::derive(suite, &theirs, None).unwrap();
            let (explicit, body) = record[HEADER..].split_at(suite.explicit());
            prop_assert_eq!(explicit, &key.nonce(sequence)[12 - explicit.len()..]);
            let (sealed, tag) = body.split_at(body.len() - 16);
            let mut aad = record[..HEADER].to_vec();
            if !suite.is_tls13() {
                aad = [&sequence.to_be_bytes()[..], &[kind, 3, 3]].concat();
                aad.extend((sealed.len() as u16).to_be_bytes());
            }
            let mut plain = vec![0; sealed.len()];
            prop_assert!(key.open(key.nonce(sequence), &aad, sealed, tag, &mut plain));
            prop_assert!(used.insert((theirs.clone(), sequence)), "used twice");
            prop_assert!(sequence < suite.limit());
            sequence += 1;
            if suite.is_tls13() && plain == [24, 0, 0, 1, 0, content::HANDSHAKE] {
                super::keys::update(suite, &mut theirs).unwrap();
                sequence = 0;
            }
        }
    }

    /// Arbitrary bytes, cut anywhere, cause no panic, and none of them is taken for data.
    #[test]
    fn any_bytes_are_borne(
        suite in 0..SUITES.len(),
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        cut in 0..600usize,
    ) {
        let mut rogue = Rogue::new(SUITES[suite]);
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        let _ = rogue.sends(first);
        prop_assert!(rogue.plain.is_empty());
        let _ = rogue.sends(second);
        prop_assert!(rogue.plain.is_empty());
    }
}
