use super::*;
use crate::message::MessageRef;
use crate::packet::Qos;

fn message(topic: &str) -> MessageRef<'_> {
    MessageRef {
        topic,
        properties: &[],
        payload: b"gone",
        qos: Qos::AtLeastOnce,
        retain: false,
        expires: None,
        publisher: None,
    }
}

fn told(client: &str, stamp: u64, due: WillDue) -> WillRef<'_> {
    WillRef { stamp, due, message_expiry: None, client, message: message("w") }
}

fn at_once(client: &str) -> WillRef<'_> {
    told(client, 5, WillDue::After(0))
}

fn kept(wills: &[WillRef<'_>]) -> FarWills {
    let mut far = FarWills::new("own", 1 << 20);
    far.joined(0, "a", 1);
    far.joined(1, "b", 1);
    wills.iter().for_each(|will| far.set(0, will, false, &Offset::default()));
    far
}

fn survivors(name: &'static str, others: &[&'static str]) -> Survivors<'static> {
    Survivors { name, others: others.to_vec(), may_publish: true, room: 64 }
}

/// The ClientIds whose will messages are published at that time.
fn published(far: &mut FarWills, by: &Survivors<'_>, now: u64) -> Vec<String> {
    let mut all = Vec::new();
    while far.run(Instant(now), by, &mut |due| all.push(due.client.into_string())) {}
    all
}

#[test]
fn the_first_of_those_who_are_left_publishes_and_the_next_one_waits_for_its_turn() {
    let mut first = kept(&[at_once("x"), at_once("y")]);
    let mut next = kept(&[at_once("x"), at_once("y"), at_once("z")]);
    assert!(published(&mut first, &survivors("b", &["c"]), 0).is_empty(), "it is there");
    first.silent(0, Instant(1000));
    next.silent(0, Instant(1100));
    assert_eq!(published(&mut first, &survivors("b", &["c"]), 1000), ["x", "y"]);
    assert!(published(&mut first, &survivors("b", &["c"]), 9000).is_empty());
    next.sent("a", 1, "x", Instant(1200));
    next.sent("a", 1, "y", Instant(1200));
    assert!(published(&mut next, &survivors("c", &["b"]), 1199 + TURN).is_empty());
    // The first node did not know it.
    assert_eq!(published(&mut next, &survivors("c", &["b"]), 1200 + TURN), ["z"]);
    assert_eq!((first.bytes(), next.bytes()), (0, 0));
    assert_eq!((first.counts.published, next.counts.published), (2, 1));
}

#[test]
fn delays_count_from_when_a_connection_is_known_to_be_over() {
    let at = WillDue::At(Instant(4000));
    let mut far = kept(&[told("x", 5, WillDue::After(10)), told("y", 5, at), at_once("z")]);
    far.silent(0, Instant(1000));
    let me = survivors("b", &[]);
    assert_eq!(published(&mut far, &me, 1000), ["z"]);
    assert_eq!(published(&mut far, &me, 3999), [""; 0]);
    assert_eq!(published(&mut far, &me, 4000), ["y"]);
    // The node is given up meanwhile.
    far.given_up(0, false, Instant(5000));
    assert_eq!(published(&mut far, &me, 10_999), [""; 0]);
    assert_eq!(published(&mut far, &me, 11_000), ["x"]);
    assert!(far.is_empty() && far.bytes() == 0 && !far.has_work());
}

#[test]
fn a_client_that_is_back_or_a_node_that_is_has_its_wills_taken_back() {
    let due = WillDue::After(10);
    let wills = [told("x", 5, due), told("y", 5, due), told("z", 5, due)];
    let me = survivors("b", &[]);
    let mut far = kept(&wills);
    far.claimed(Some(0), "x", 9, Instant(7));
    far.claimed(Some(1), "y", 5, Instant(7));
    assert_eq!(far.len(), 3, "its own node says so itself; and an older claim counts nothing");
    far.silent(0, Instant(1000));
    far.claimed(Some(1), "x", 6, Instant(7));
    far.claimed(None, "y", u64::MAX, Instant(7));
    assert_eq!(published(&mut far, &me, 20_000), ["z"]);
    let mut far = kept(&wills);
    far.silent(0, Instant(1000));
    published(&mut far, &me, 1000);
    far.back(0);
    assert!(published(&mut far, &me, 20_000).is_empty());
    far.told_anew(0);
    assert!(far.is_empty());
    far.set(0, &wills[0], false, &Offset::default());
    far.restarted(0, 2, Instant(30_000));
    assert_eq!(published(&mut far, &me, 40_000), ["x"]);
    assert_eq!(far.bytes(), 0);
}

/// A node with stored sessions publishes their will messages itself when it is back, but for those
/// that it is told of.
#[test]
fn stored_wills_are_left_to_a_node_that_is_back_except_those_that_are_settled() {
    let due = WillDue::After(10);
    let mut far = kept(&[]);
    let both = [(told("plain", 5, due), false), (told("later", 5, due), true)];
    let others = ["x", "y", "z"].map(|client| (at_once(client), true));
    for (will, stored) in both.iter().chain(&others) {
        far.set(0, will, *stored, &Offset::default());
    }
    far.claimed(Some(1), "z", 6, Instant(7));
    far.silent(0, Instant(1000));
    far.sent("a", 1, "x", Instant(1000));
    assert_eq!(published(&mut far, &survivors("b", &[]), 1000), ["y"]);
    assert_eq!(far.next_settled("a", 1), None);
    far.restarted(0, 2, Instant(2000));
    for client in ["x", "y", "z"] {
        assert_eq!(far.next_settled("a", 2), Some((1, client.into())));
    }
    assert_eq!(far.next_settled("a", 2), None);
    assert_eq!(published(&mut far, &survivors("b", &[]), 20_000), ["plain"]);
    assert_eq!(far.bytes(), 0);
}

#[test]
fn who_is_cut_off_or_one_of_few_publishes_nothing() {
    let mut far = kept(&[at_once("x")]);
    far.silent(0, Instant(0));
    let few = Survivors { may_publish: false, ..survivors("b", &[]) };
    assert!(published(&mut far, &few, 9000).is_empty());
    far.given_up(0, true, Instant(9000));
    assert!(published(&mut far, &survivors("b", &[]), 9000).is_empty());
    assert_eq!((far.counts.no_majority, far.bytes()), (1, 0));
}

#[test]
fn what_is_kept_has_a_bound() {
    let wills = [at_once("a"), at_once("b")];
    let mut far = kept(&wills[..1]);
    let one = far.bytes();
    far.most = one + one / 2;
    far.set(0, &wills[1], false, &Offset::default());
    assert_eq!((far.len(), far.bytes(), far.counts.no_room), (1, one, 1));
    // The same will message again takes no more room.
    far.set(0, &wills[0], false, &Offset::default());
    assert_eq!((far.len(), far.bytes(), far.counts.no_room), (1, one, 1));
}

/// A node tells all its will messages again, more than are released at a time: those that are
/// replaced take no room from those that replace them.
#[test]
fn wills_that_are_told_again_find_the_room_of_the_former_ones() {
    let names: Vec<String> = (0..3 * SLICE).map(|number| format!("client-{number:05}")).collect();
    let wills: Vec<WillRef<'_>> = names.iter().map(|name| at_once(name)).collect();
    let mut far = kept(&wills);
    assert_eq!(far.len(), wills.len());
    let all = far.bytes();
    far.most = all + 10;
    for _ in 0..3 {
        far.told_anew(0);
        wills.iter().for_each(|will| far.set(0, will, false, &Offset::default()));
        assert_eq!((far.len(), far.counts.no_room), (wills.len(), 0));
        assert!(far.bytes() <= far.most);
    }
    far.set(0, &at_once("one more"), false, &Offset::default());
    assert_eq!(far.counts.no_room, 1, "the bound holds");
    published(&mut far, &survivors("b", &[]), 0);
    assert_eq!(far.bytes(), all);
}

/// The will messages that a node has been told.
fn tell_all(telling: &mut WillTelling, wills: &LocalWills, known: &mut Vec<String>) {
    tell_all_to(1, telling, wills, known);
}

fn tell_all_to(level: u8, telling: &mut WillTelling, wills: &LocalWills, known: &mut Vec<String>) {
    while telling.next(wills, level, &mut |record| match record {
        NodeRecord::NoWills => known.clear(),
        NodeRecord::Will(will) | NodeRecord::StoredWill(will) => known.push(will.client.to_owned()),
        NodeRecord::NoWill(client) => known.retain(|other| other != client),
        _ => unreachable!("not about wills"),
    }) {}
}

#[test]
fn a_node_is_told_of_all_and_then_of_what_changes() {
    let will = || {
        let message = Message::new(&message("w"), &mut Vec::new());
        Some(FarWill { message, due: WillDue::After(0), message_expiry: None, stored: false })
    };
    let (mut wills, mut telling, mut known) =
        (LocalWills::default(), WillTelling::default(), Vec::new());
    for client in ["b", "d", "a"] {
        assert!(wills.set(client, 1, will()));
        telling.changed(client);
    }
    assert!(!wills.set("x", 1, None), "it had none");
    tell_all(&mut telling, &wills, &mut known);
    assert_eq!(known, ["a", "b", "d"]);
    assert!(telling.is_done());
    for (client, will) in [("c", will()), ("a", None)] {
        assert!(wills.set(client, 2, will));
        telling.changed(client);
    }
    assert!(!telling.is_done());
    tell_all(&mut telling, &wills, &mut known);
    assert_eq!(known, ["b", "d", "c"]);
    telling.begin();
    tell_all(&mut telling, &wills, &mut known);
    assert_eq!(known, ["b", "c", "d"]);
    let stored = will().map(|will| FarWill { stored: true, ..will });
    assert!(wills.set("d", 3, stored));
    for (level, expected) in [(0, &["b", "c"][..]), (1, &["b", "c", "d"])] {
        telling.changed("d");
        tell_all_to(level, &mut telling, &wills, &mut known);
        known.sort();
        known.dedup();
        assert_eq!(known, expected, "at level {level}");
    }
    for client in ["b", "c", "d"] {
        wills.set(client, 3, None);
    }
    assert_eq!((wills.len(), wills.bytes()), (0, 0));
}
