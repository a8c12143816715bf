use super::*;
use crate::ids::{ListenerId, ShardId};
use crate::upgrade::client::Early;
use crate::upgrade::frame::Hello;
use proptest::prelude::*;
use std::collections::VecDeque;

const MOVED: UpgradeTotals = UpgradeTotals { sessions: 3, connections: 2, retained: 1 };

/// Both processes with the frames between them, and what is true of each process.
struct Pair {
    old: Old,
    new: New,
    to_new: VecDeque<UpgradeFrame>,
    to_old: VecDeque<UpgradeFrame>,
    /// Events that each process causes itself; they come later, in their own time.
    old_will: VecDeque<OldInput<'static>>,
    new_will: VecDeque<NewInput<'static>>,
    old_lives: bool,
    new_lives: bool,
    /// Whether old reads sockets and timers.
    old_serves: bool,
    new_serves: bool,
    /// Whether new has been sent everything.
    has_all: bool,
    /// What old has decided.
    decided: Option<OldOrder>,
}

fn hello() -> UpgradeFrame {
    UpgradeFrame::Hello(Hello {
        version: VERSION,
        oldest: OLDEST,
        build: "test".into(),
        zero: 0,
        secret: (1, 2),
        shards: 2,
        store: None,
        node: None,
        durable: false,
    })
}

/// A client that old still serves.
fn copied() -> UpgradeFrame {
    UpgradeFrame::Early(Box::new(Early {
        from: ShardId(0),
        number: 0,
        client_id: "c".into(),
        listener: Some(ListenerId(0)),
        session: None,
        connection: None,
    }))
}

impl Pair {
    fn new() -> Pair {
        let mut new = New::default();
        new.is_child();
        Pair {
            old: Old::default(),
            new,
            to_new: VecDeque::from([hello()]),
            to_old: VecDeque::new(),
            old_will: VecDeque::new(),
            new_will: VecDeque::new(),
            old_lives: true,
            new_lives: true,
            old_serves: true,
            new_serves: false,
            has_all: false,
            decided: None,
        }
    }

    fn old(&mut self, input: OldInput<'_>) {
        for order in self.old.handle(input) {
            match order {
                OldOrder::Copy => {
                    self.to_new.push_back(copied());
                    self.old_will.push_back(OldInput::Copied);
                }
                OldOrder::Suspend => {
                    self.old_serves = false;
                    self.old_will.push_back(OldInput::Quiet);
                }
                OldOrder::Send => {
                    self.to_new.push_back(UpgradeFrame::Stale(ShardId(0), Vec::new(), 0));
                    self.old_will.push_back(OldInput::Sent(MOVED));
                }
                OldOrder::SayAll(totals) => self.to_new.push_back(UpgradeFrame::All(totals)),
                OldOrder::SayCommit => self.to_new.push_back(UpgradeFrame::Commit),
                OldOrder::Kill => self.new_lives = false,
                OldOrder::GoOn(_) => {
                    self.old_serves = true;
                    self.decided = Some(order);
                }
                OldOrder::End | OldOrder::EndLost => {
                    self.old_lives = false;
                    self.decided = Some(order);
                }
            }
        }
    }

    fn new_side(&mut self, input: NewInput<'_>) {
        match self.new.handle(input) {
            Some(NewOrder::Start) => self.new_will.push_back(NewInput::Started(2)),
            Some(NewOrder::SayReady(shards)) => self.to_old.push_back(UpgradeFrame::Ready(shards)),
            Some(NewOrder::Settle) => self.new_will.push_back(NewInput::Holds(MOVED)),
            Some(NewOrder::SayPrepared(totals)) => {
                self.has_all = true;
                self.to_old.push_back(UpgradeFrame::Prepared(totals));
            }
            Some(NewOrder::Serve) => {
                assert!(!self.old_lives, "old lives");
                self.new_serves = true;
            }
            Some(NewOrder::SayCommittedAndServe) => {
                self.to_old.push_back(UpgradeFrame::Committed);
                self.new_serves = true;
            }
            Some(NewOrder::GiveUp(_)) => self.new_lives = false,
            Some(NewOrder::Take) | None => {}
        }
    }

    /// Lets one event happen, chosen by `what`.
    fn step(&mut self, what: u8) {
        match what {
            0 if self.old_lives => {
                if let Some(frame) = self.to_old.pop_front() {
                    self.old(OldInput::Heard(&frame));
                } else if !self.new_lives {
                    self.old(OldInput::Ended);
                }
            }
            1 if self.new_lives => {
                if let Some(frame) = self.to_new.pop_front() {
                    self.new_side(NewInput::Heard(&frame));
                } else if !self.old_lives {
                    self.new_side(NewInput::Ended);
                }
            }
            2 if self.old_lives => {
                if let Some(input) = self.old_will.pop_front() {
                    self.old(input);
                }
            }
            3 if self.new_lives => {
                if let Some(input) = self.new_will.pop_front() {
                    self.new_side(input);
                }
            }
            _ => {}
        }
    }

    fn check(&self) {
        let old = self.old_lives && self.old_serves;
        let new = self.new_lives && self.new_serves;
        assert!(!(old && new), "both serve");
        let decided_to_go_on = matches!(self.decided, Some(OldOrder::GoOn(_)));
        assert!(!(decided_to_go_on && self.new_serves), "old goes on with what new has served");
    }

    /// Lets all events happen that can.
    fn settle(&mut self) {
        for _ in 0..20 {
            (0..4).for_each(|what| self.step(what));
            self.check();
        }
    }
}

#[test]
fn new_serves_when_nobody_dies() {
    let mut pair = Pair::new();
    pair.settle();
    assert_eq!(pair.decided, Some(OldOrder::End));
    assert!(pair.new_serves && pair.new_lives && !pair.old_lives);
}

#[test]
fn another_version_is_refused_before_anything_moves() {
    for (version, oldest) in [(VERSION + 1, VERSION + 1), (OLDEST - 1, OLDEST - 1)] {
        let UpgradeFrame::Hello(hello) = hello() else { unreachable!() };
        let other = UpgradeFrame::Hello(Hello { version, oldest, ..hello });
        let order = New::default().handle(NewInput::Heard(&other));
        assert!(matches!(order, Some(NewOrder::GiveUp(why)) if why.contains("versions")));
    }
    let mut old = Old::default();
    let orders = old.handle(OldInput::Heard(&UpgradeFrame::Refused("too new".into())));
    assert_eq!(orders, [OldOrder::Kill, OldOrder::GoOn("it refuses: too new".to_owned())]);
}

#[test]
fn too_few_clients_are_not_committed() {
    let mut old = Old::default();
    old.handle(OldInput::Heard(&UpgradeFrame::Ready(1)));
    assert_eq!(old.handle(OldInput::Copied), [OldOrder::Suspend]);
    old.handle(OldInput::Quiet);
    old.handle(OldInput::Sent(MOVED));
    let fewer = UpgradeTotals { connections: 1, ..MOVED };
    let orders = old.handle(OldInput::Heard(&UpgradeFrame::Prepared(fewer)));
    assert!(matches!(orders.as_slice(), [OldOrder::Kill, OldOrder::GoOn(_)]));
}

#[test]
fn what_was_only_copied_is_not_served_when_old_dies() {
    let mut new = New::default();
    new.is_child();
    new.handle(NewInput::Heard(&hello()));
    assert_eq!(new.handle(NewInput::Started(1)), Some(NewOrder::SayReady(1)));
    for frame in
        [copied(), UpgradeFrame::Gone(ShardId(0), vec![0]), UpgradeFrame::Retained(Vec::new())]
    {
        assert_eq!(new.handle(NewInput::Heard(&frame)), Some(NewOrder::Take));
    }
    assert!(matches!(new.handle(NewInput::Ended), Some(NewOrder::GiveUp(_))));
}

#[test]
fn a_process_that_old_does_not_kill_itself_never_serves_because_old_says_nothing_more() {
    let (mut child, mut other) = (New::default(), New::default());
    child.is_child();
    for new in [&mut child, &mut other] {
        new.handle(NewInput::Heard(&hello()));
        new.handle(NewInput::Started(1));
        new.handle(NewInput::Heard(&UpgradeFrame::Stale(ShardId(0), Vec::new(), 0)));
    }
    assert_eq!(child.handle(NewInput::Ended), Some(NewOrder::Settle));
    assert_eq!(child.handle(NewInput::Holds(MOVED)), Some(NewOrder::Serve));
    assert!(matches!(other.handle(NewInput::Ended), Some(NewOrder::GiveUp(_))));
}

proptest! {
    /// Steps in any order; after any of them either side may die, or old may lose patience.
    #[test]
    fn never_both_serve_and_old_goes_on_unless_new_has_said_that_it_serves(
        steps in proptest::collection::vec(0u8..4, 0..40),
        fate in 0u8..4,
    ) {
        let mut pair = Pair::new();
        for step in steps {
            pair.step(step);
            pair.check();
        }
        match fate {
            0 => pair.new_lives = false,
            1 => pair.old_lives = false,
            2 if pair.old_lives => pair.old(OldInput::Late),
            _ => {}
        }
        pair.check();
        let committed = pair.new_serves;
        pair.settle();
        if pair.old_lives {
            prop_assert!(pair.old_serves, "old lives and rests");
            prop_assert!(matches!(pair.decided, Some(OldOrder::GoOn(_))), "{:?}", pair.decided);
        } else if pair.decided == Some(OldOrder::End) {
            prop_assert!(pair.new_serves);
        } else if pair.decided.is_none() {
            // Old was killed: new serves what it has, if it has anything.
            prop_assert!(fate == 1 && pair.new_lives == pair.new_serves);
            prop_assert!(pair.new_serves || !pair.has_all, "new has everything and ends");
        } else {
            prop_assert!(committed || fate == 2, "lost although new had not served");
        }
    }
}
