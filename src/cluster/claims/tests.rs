use super::*;
use crate::cluster::lane::Malformed;
use crate::cluster::record::ClaimVerdict;
use crate::mesh::moves::PackedParts;

const SHARD: ShardId = ShardId(0);

/// A node `name` that knows the nodes `others`.
fn node(name: &str, others: &[&str]) -> NodeClaims {
    let mut claims = NodeClaims::new(name, 1, 1_000_000, Instant(0));
    for (number, other) in others.iter().enumerate() {
        claims.joined(number as u8, other);
    }
    claims.see((1 << others.len()) - 1, Instant(0));
    claims
}

fn connect(claims: &mut NodeClaims, claim: u64, now: u64) {
    let told = ToCluster::Claim(claim, "client".into(), SessionDemand::Moved);
    claims.told(SHARD, told, true, Instant(now));
}

fn run(claims: &mut NodeClaims, now: u64) -> Vec<String> {
    claims.run(Instant(now), |_| 0);
    let text = |mail| match mail {
        ClaimMail::One(_, what) => format!("{what:?}"),
        ClaimMail::Fences => "Fence".to_owned(),
    };
    claims.mail.drain(..).map(text).collect()
}

/// What a node is told, as text.
fn said(claims: &mut NodeClaims, to: u8) -> Vec<String> {
    let of = claims.records.extract_if(.., |(node, ..)| *node == to);
    let read = |bytes: &[u8]| -> Result<String, Malformed> {
        Ok(match NodeRecord::read(bytes)? {
            NodeRecord::Claim(claim, ..) => format!("claim {claim}"),
            record => format!("{record:?}"),
        })
    };
    of.map(|(.., bytes)| read(&bytes).unwrap()).collect()
}

#[test]
fn a_client_comes_in_when_every_node_has_answered() {
    let mut alone = node("a", &[]);
    connect(&mut alone, 1, 5);
    assert_eq!(run(&mut alone, 5), ["Claimed(1, Ours)"]);
    let mut claims = node("a", &["b", "c"]);
    connect(&mut claims, 1, 5);
    assert_eq!(
        (said(&mut claims, 0), said(&mut claims, 1)),
        (vec!["claim 1".into()], vec!["claim 1".into()])
    );
    claims.heard(0, &NodeRecord::Answer(1, ClaimVerdict::Nothing), Instant(6));
    assert!(run(&mut claims, 6).is_empty());
    claims.heard(1, &NodeRecord::Answer(1, ClaimVerdict::Nothing), Instant(7));
    assert_eq!(run(&mut claims, 7), ["Claimed(1, Ours)"]);
    assert_eq!((claims.counts.unanswered, claims.moving()), (0, 0));
}

#[test]
fn it_does_not_wait_for_a_node_that_does_not_answer_or_is_gone() {
    let mut claims = node("a", &["b", "c"]);
    connect(&mut claims, 1, 0);
    claims.heard(0, &NodeRecord::Answer(1, ClaimVerdict::Nothing), Instant(1));
    assert_eq!(claims.deadline(), Some(Instant(PATIENCE)));
    assert!(run(&mut claims, PATIENCE - 1).is_empty());
    assert_eq!(run(&mut claims, PATIENCE), ["Claimed(1, Ours)"]);
    assert_eq!(claims.counts.unanswered, 1);
    connect(&mut claims, 2, 1000);
    claims.see(1, Instant(1001));
    claims.heard(0, &NodeRecord::Answer(2, ClaimVerdict::Nothing), Instant(1001));
    assert_eq!(run(&mut claims, 1001), ["Claimed(2, Ours)"]);
}

#[test]
fn an_older_claim_that_comes_late_takes_nothing() {
    let mut claims = node("a", &["b"]);
    connect(&mut claims, 1, 1000);
    run(&mut claims, 1000 + PATIENCE);
    said(&mut claims, 0);
    // Everything that `b` had said before was lost for a while.
    claims.heard(
        0,
        &NodeRecord::Claim(9, 1_000_500, SessionDemand::Moved, "client"),
        Instant(3000),
    );
    assert!(run(&mut claims, 3000).is_empty());
    assert_eq!(said(&mut claims, 0), ["Answer(9, Newer)"]);
    claims.heard(
        0,
        &NodeRecord::Claim(10, 9_000_000, SessionDemand::Moved, "client"),
        Instant(3000),
    );
    assert_eq!(run(&mut claims, 3000).len(), 1);
}

#[test]
fn of_two_claims_the_newer_one_wins_and_of_equal_ones_the_greater_name() {
    for (stamp, wins) in [(2_000_000, false), (1_999_999, false), (2_000_001, true)] {
        let mut claims = node("b", &["a"]);
        connect(&mut claims, 1, 1000);
        said(&mut claims, 0);
        claims.heard(
            0,
            &NodeRecord::Claim(7, stamp, SessionDemand::Moved, "client"),
            Instant(1001),
        );
        let answer = if wins { "Answer(7, Holds)" } else { "Answer(7, Newer)" };
        assert_eq!(said(&mut claims, 0), [answer], "{stamp}");
        let mail = run(&mut claims, 1001);
        assert_eq!(mail.is_empty(), !wins, "{mail:?}");
        claims.heard(0, &NodeRecord::Answer(1, ClaimVerdict::Nothing), Instant(1002));
        let mail = run(&mut claims, 1002);
        assert_eq!(mail[0], "Claimed(1, Ours)");
        // The session that is here by then goes to the winner.
        assert_eq!(mail.len(), if wins { 2 } else { 1 }, "{mail:?}");
    }
}

#[test]
fn a_later_client_is_newer_than_what_was_claimed_elsewhere_before() {
    let claim =
        |claim: u64, stamp: u64| NodeRecord::Claim(claim, stamp, SessionDemand::Moved, "client");
    let mut claims = node("a", &["b"]);
    connect(&mut claims, 1, 1000);
    claims.heard(0, &claim(7, 2_000_500), Instant(1001));
    assert_eq!(said(&mut claims, 0), ["claim 1", "Answer(7, Holds)"]);
    assert_eq!(run(&mut claims, 1001), ["Claimed(1, Lost)"]);
    connect(&mut claims, 2, 1002);
    assert_eq!(said(&mut claims, 0), ["Answer(7, Newer)"]);
    connect(&mut claims, 3, 1010);
    // An older claim that comes late, and the other node's answer to the claim that has lost.
    claims.heard(0, &claim(8, 2_009_000), Instant(1011));
    claims.heard(0, &NodeRecord::Answer(1, ClaimVerdict::Newer), Instant(1011));
    assert_eq!(said(&mut claims, 0), ["Answer(8, Newer)", "claim 3"]);
    assert_eq!(run(&mut claims, 1011), ["Claimed(2, Over)", "Claimed(1, Ours)"]);
    claims.heard(0, &NodeRecord::Answer(3, ClaimVerdict::Nothing), Instant(1012));
    assert_eq!(run(&mut claims, 1012), ["Claimed(3, Ours)"]);
    assert_eq!((claims.counts.lost, claims.counts.claims), (1, 3));
    // One that is newer than the later client wins.
    connect(&mut claims, 4, 2000);
    connect(&mut claims, 5, 2001);
    claims.heard(0, &claim(9, 3_001_001), Instant(2002));
    assert_eq!(said(&mut claims, 0), ["claim 4", "Answer(9, Holds)"]);
    assert_eq!(run(&mut claims, 2002), ["Claimed(5, Lost)", "Claimed(5, Over)"]);
    claims.heard(0, &NodeRecord::Answer(4, ClaimVerdict::Nothing), Instant(2003));
    let mail = run(&mut claims, 2003);
    assert_eq!((mail.len(), &*mail[0]), (2, "Claimed(4, Ours)"));
    assert!(mail[1].starts_with("Surrender("), "{mail:?}");
}

#[test]
fn a_promise_of_a_node_whose_client_is_newer_is_not_waited_for() {
    let mut claims = node("a", &["b"]);
    connect(&mut claims, 1, 1000);
    claims.heard(0, &NodeRecord::Answer(1, ClaimVerdict::Holds), Instant(1001));
    assert!(run(&mut claims, 1001).is_empty());
    claims.heard(0, &NodeRecord::Answer(1, ClaimVerdict::Newer), Instant(1002));
    assert_eq!(run(&mut claims, 1002), ["Claimed(1, Lost)", "Claimed(1, Ours)"]);
}

#[test]
fn a_session_goes_when_every_node_knows_its_new_place() {
    let mut holder = node("a", &["b", "c"]);
    let to = Move { node: 0, claim: 7 };
    holder.heard(0, &NodeRecord::Claim(7, 9, SessionDemand::Moved, "client"), Instant(1));
    assert_eq!(run(&mut holder, 1), [format!("Surrender({to:?}, \"client\", Moved)")]);
    holder.told(SHARD, ToCluster::Surrendered(to, Some(vec![1])), true, Instant(1));
    assert_eq!(said(&mut holder, 0), ["Answer(7, Holds)", "Session(7, [1])"]);
    holder.heard(0, &NodeRecord::Fence(7, "a"), Instant(2));
    assert_eq!(run(&mut holder, 2), ["Fence"]);
    holder.told(SHARD, ToCluster::Fenced, true, Instant(2));
    holder.heard(0, &NodeRecord::Fenced(7, "b"), Instant(2));
    assert!(run(&mut holder, 2).is_empty());
    holder.heard(1, &NodeRecord::Fenced(7, "b"), Instant(3));
    assert_eq!(run(&mut holder, 3), [format!("Pack({to:?})")]);
    let packed = PackedParts { owed: vec![vec![9]], parts: vec![vec![2], vec![3]] };
    holder.told(SHARD, ToCluster::Packed(to, packed), true, Instant(3));
    assert_eq!(said(&mut holder, 0), ["Owed(7, [9])", "Part(7, false, [2])", "Part(7, true, [3])"]);
    assert_eq!(holder.moving(), 1);
    holder.heard(0, &NodeRecord::Settled(7), Instant(4));
    assert_eq!(run(&mut holder, 4), [format!("Done({to:?})")]);
    assert_eq!((holder.moving(), holder.counts.went), (0, 1));
}

#[test]
fn a_session_stays_when_the_other_node_is_lost_and_does_not_wait_for_ever() {
    let mut holder = node("a", &["b", "c"]);
    let to = Move { node: 0, claim: 7 };
    for round in 0..2 {
        holder.told(SHARD, ToCluster::Surrendered(to, Some(vec![1])), true, Instant(1));
        if round == 0 {
            assert_eq!(run(&mut holder, FENCES), Vec::<String>::new());
            assert_eq!(run(&mut holder, FENCES + 1), [format!("Pack({to:?})")]);
        }
        holder.forget(0, Instant(9));
        assert_eq!(run(&mut holder, 9), [format!("Keep({to:?})")]);
        assert_eq!(holder.moving(), 0);
    }
    let mut claimant = node("b", &["a"]);
    connect(&mut claimant, 7, 0);
    claimant.heard(0, &NodeRecord::Session(7, b"x"), Instant(1));
    assert_eq!(run(&mut claimant, 1), ["Adopt(7, [120])"]);
    claimant.forget(0, Instant(2));
    assert_eq!(run(&mut claimant, 2), ["Claimed(7, SessionLost)"]);
    // The session arrives too late.
    claimant.heard(0, &NodeRecord::Part(7, true, b"x"), Instant(3));
    assert_eq!(said(&mut claimant, 0), ["claim 7", "Settled(7)"]);
    assert_eq!(claimant.counts.failed, 1);
}

#[test]
fn a_claim_is_given_up_when_nothing_of_its_session_has_come_for_a_while() {
    let mut claims = node("a", &["b", "c"]);
    connect(&mut claims, 1, 0);
    for (node, verdict) in
        [(0, ClaimVerdict::Holds), (1, ClaimVerdict::Nothing), (0, ClaimVerdict::Holds)]
    {
        claims.heard(node, &NodeRecord::Answer(1, verdict), Instant(1));
    }
    assert_eq!(claims.promises_due.len(), 1);
    // Each time just before the end of the promise.
    claims.heard(0, &NodeRecord::Session(1, b"x"), Instant(PROMISED));
    assert_eq!(run(&mut claims, PROMISED + 10), ["Adopt(1, [120])"]);
    claims.heard(0, &NodeRecord::Part(1, false, b"y"), Instant(2 * PROMISED - 1));
    assert_eq!(run(&mut claims, 2 * PROMISED + 10), ["Continue(1, [121], false)"]);
    assert!(run(&mut claims, 3 * PROMISED - 2).is_empty());
    assert_eq!(run(&mut claims, 3 * PROMISED - 1), ["Claimed(1, SessionLost)"]);
    assert_eq!((claims.counts.failed, claims.promises_due.len()), (1, 0));
    // What is over is not waited for.
    connect(&mut claims, 2, 40_000);
    claims.heard(0, &NodeRecord::Answer(2, ClaimVerdict::Holds), Instant(40_001));
    claims.heard(1, &NodeRecord::Answer(2, ClaimVerdict::Nothing), Instant(40_001));
    claims.heard(0, &NodeRecord::Answer(2, ClaimVerdict::Nothing), Instant(40_002));
    assert_eq!(run(&mut claims, 40_002), ["Claimed(2, Ours)"]);
    assert!(claims.promises_due.is_empty());
}

#[test]
fn a_node_that_has_told_of_share_groups_is_answered_when_the_shards_know_them() {
    let mut claims = node("a", &["b", "c"]);
    claims.asked(0, 1, false);
    assert_eq!(said(&mut claims, 0), ["Known(1)"]);
    claims.asked(0, 2, true);
    // The next question may concern the same group.
    claims.asked(0, 3, false);
    claims.asked(1, 9, false);
    assert_eq!(said(&mut claims, 1), ["Known(9)"]);
    assert!(said(&mut claims, 0).is_empty());
    assert_eq!(run(&mut claims, 1), ["Fence"]);
    claims.told(SHARD, ToCluster::Fenced, true, Instant(2));
    assert_eq!(said(&mut claims, 0), ["Known(2)"]);
    claims.told(SHARD, ToCluster::Fenced, true, Instant(3));
    assert_eq!(said(&mut claims, 0), ["Known(3)"]);
}
