//! The two processes of an upgrade as state machines that decide which process serves: how each
//! reacts to the frames of the other process, to its death, and to a wait that takes too long. This
//! module performs nothing; `broker::upgrade` carries the orders out.
//!
//! Old serves, except for a pause, until it has read [`UpgradeFrame::Committed`]; new serves once
//! it has sent that frame. One case loses messages: old gives up waiting and kills new, and
//! afterwards reads a [`UpgradeFrame::Committed`] that new had sent before. Old cannot know what
//! new has done for clients in between, so old does not go on with its own state but ends
//! ([`OldOrder::EndLost`]).
//!
//! When old is dead, no other process serves, so new serves the clients that it was sent by then,
//! if old had suspended its shards already; a copied part alone is of no use. If new is old's
//! child, the end of the socket pair tells that old is dead: a living old kills its child before it
//! closes its end. With another program between the two, old would kill that program in place of
//! new; then new gives up instead.

use super::frame::{UpgradeFrame, UpgradeTotals};
use super::{OLDEST, VERSION};
use std::time::Duration;

/// Events that old reacts to.
pub enum OldInput<'a> {
    /// New has sent this frame.
    Heard(&'a UpgradeFrame),
    /// The parts of clients that can be copied while old serves were sent.
    Copied,
    /// Every shard is suspended and has finished the work that was under way.
    Quiet,
    /// All clients were sent.
    Sent(UpgradeTotals),
    /// New is dead, and all its frames have been read.
    Ended,
    /// The present stage has lasted longer than [`Old::patience`].
    Late,
    /// Old cannot go on with the upgrade, for this reason.
    Failed(String),
}

/// Orders of old's state machine.
#[derive(PartialEq, Eq, Debug)]
pub enum OldOrder {
    /// Copy clients while they are served.
    Copy,
    /// Suspend the shards.
    Suspend,
    /// Send the clients.
    Send,
    /// Send [`UpgradeFrame::All`].
    SayAll(UpgradeTotals),
    /// Send [`UpgradeFrame::Commit`].
    SayCommit,
    /// Kill new.
    Kill,
    /// Go on serving; new is dead or about to be, for this reason.
    GoOn(String),
    /// End: new serves.
    End,
    /// End: new was killed, and what it had done for clients before is unknown.
    EndLost,
}

impl OldOrder {
    /// Whether a stage begins with this order, whose duration is to be bounded.
    pub fn begins_stage(&self) -> bool {
        use OldOrder as O;
        matches!(self, O::Copy | O::Suspend | O::Send | O::SayAll(_) | O::SayCommit)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum OldStage {
    /// New is starting.
    Starting,
    /// Clients are copied while old serves them.
    Copying,
    /// The shards finish work that is under way.
    Quieting,
    /// Clients are being sent.
    Sending,
    /// All clients were sent; new is not ready yet.
    Offered(UpgradeTotals),
    /// New may serve, and has not answered yet.
    Committing,
    /// New was killed in the stage before.
    Killed,
    /// The outcome is decided.
    Over,
}

/// The state machine of the old process.
pub struct Old {
    stage: OldStage,
}

impl Default for Old {
    fn default() -> Old {
        Old { stage: OldStage::Starting }
    }
}

impl Old {
    /// How long the present stage may last; `None` when the outcome is decided.
    pub fn patience(&self) -> Option<Duration> {
        let seconds = match self.stage {
            OldStage::Starting => 60,
            OldStage::Copying => 120,
            OldStage::Quieting => 2,
            OldStage::Sending => 60,
            OldStage::Offered(_) | OldStage::Committing => 10,
            // The kernel ends a killed process soon; old can only wait for that.
            OldStage::Killed => 60,
            OldStage::Over => return None,
        };
        Some(Duration::from_secs(seconds))
    }

    /// Handles an event; returns the orders, in the order of their execution.
    pub fn handle(&mut self, input: OldInput<'_>) -> Vec<OldOrder> {
        use {OldInput as I, OldStage as S};
        match (self.stage, input) {
            (S::Over, _) => Vec::new(),
            (S::Starting, I::Heard(UpgradeFrame::Ready(_))) => self.go(S::Copying, OldOrder::Copy),
            (S::Copying, I::Heard(UpgradeFrame::Taken(_))) => Vec::new(),
            (S::Copying, I::Copied) => self.go(S::Quieting, OldOrder::Suspend),
            (S::Quieting, I::Heard(UpgradeFrame::Taken(_))) => Vec::new(),
            (S::Quieting, I::Quiet) => self.go(S::Sending, OldOrder::Send),
            (S::Sending, I::Heard(UpgradeFrame::Taken(_))) => Vec::new(),
            (S::Sending, I::Sent(totals)) => self.go(S::Offered(totals), OldOrder::SayAll(totals)),
            (S::Offered(_), I::Heard(UpgradeFrame::Taken(_))) => Vec::new(),
            (S::Offered(sent), I::Heard(UpgradeFrame::Prepared(got))) if sent == *got => {
                self.go(S::Committing, OldOrder::SayCommit)
            }
            (S::Offered(sent), I::Heard(UpgradeFrame::Prepared(got))) => {
                self.give_up(format!("the new process has not got everything: {got} of {sent}"))
            }
            (S::Committing, I::Heard(UpgradeFrame::Committed)) => self.go(S::Over, OldOrder::End),
            // New is killed first; only a frame that it had sent before decides the outcome.
            (S::Committing, I::Late | I::Failed(_) | I::Heard(_)) => {
                self.go(S::Killed, OldOrder::Kill)
            }
            (S::Killed, I::Heard(UpgradeFrame::Committed)) => self.go(S::Over, OldOrder::EndLost),
            (S::Committing | S::Killed, I::Ended) => {
                let why = "the new process has ended before it served".to_owned();
                self.go(S::Over, OldOrder::GoOn(why))
            }
            (S::Killed, I::Late) => self.go(S::Over, OldOrder::EndLost),
            (S::Killed, _) => Vec::new(),
            (_, I::Heard(UpgradeFrame::Refused(why))) => self.give_up(format!("it refuses: {why}")),
            (_, I::Ended) => self.give_up("the new process has ended".to_owned()),
            (_, I::Failed(why)) => self.give_up(why),
            (stage, I::Late) => self.give_up(format!("it took too long ({})", stage.name())),
            (_, I::Heard(_) | I::Copied | I::Quiet | I::Sent(_)) => {
                self.give_up("the new process does not keep to the protocol".to_owned())
            }
        }
    }

    fn go(&mut self, stage: OldStage, order: OldOrder) -> Vec<OldOrder> {
        self.stage = stage;
        vec![order]
    }

    /// New was never permitted to serve, so it does not serve, dead or alive.
    fn give_up(&mut self, why: String) -> Vec<OldOrder> {
        self.stage = OldStage::Over;
        vec![OldOrder::Kill, OldOrder::GoOn(why)]
    }
}

impl OldStage {
    fn name(self) -> &'static str {
        match self {
            OldStage::Starting => "the new process does not start",
            OldStage::Copying => "the clients are too many to copy",
            OldStage::Quieting => "the shards have much under way",
            OldStage::Sending => "the clients are too many",
            OldStage::Offered(_) => "the new process does not take the clients in",
            OldStage::Committing | OldStage::Killed => "the new process does not begin to serve",
            OldStage::Over => "over",
        }
    }
}

/// Events that new reacts to.
pub enum NewInput<'a> {
    /// Old has sent this frame.
    Heard(&'a UpgradeFrame),
    /// New's cores run; their number.
    Started(u8),
    /// What new has taken in so far, after its shards have finished the work that this caused.
    Holds(UpgradeTotals),
    /// Old's end of the socket pair is closed.
    Ended,
    /// New cannot go on, for this reason.
    Failed(String),
}

/// Orders of new's state machine.
#[derive(PartialEq, Eq, Debug)]
pub enum NewOrder {
    /// Start the cores.
    Start,
    /// Send [`UpgradeFrame::Ready`].
    SayReady(u8),
    /// Take in the frame that was received.
    Take,
    /// Report [`NewInput::Holds`] once everything is taken in.
    Settle,
    /// Send [`UpgradeFrame::Prepared`] with these totals.
    SayPrepared(UpgradeTotals),
    /// Send [`UpgradeFrame::Committed`], and then serve.
    SayCommittedAndServe,
    /// Serve: old is dead.
    Serve,
    /// Send the reason, if old still reads, and end.
    GiveUp(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NewStage {
    Greeting,
    Starting,
    Taking,
    Settling,
    Prepared,
    /// As in `Settling`, but old is dead.
    Alone,
    Over,
}

/// The state machine of the new process.
pub struct New {
    stage: NewStage,
    /// Whether it has come that old serves no more.
    took: bool,
    /// Whether old is this process's parent.
    is_child: bool,
}

impl Default for New {
    fn default() -> New {
        New { stage: NewStage::Greeting, took: false, is_child: false }
    }
}

impl New {
    /// Notes that old is this process's parent.
    pub fn is_child(&mut self) {
        self.is_child = true;
    }

    /// Handles an event; returns the order to execute, if there is one.
    pub fn handle(&mut self, input: NewInput<'_>) -> Option<NewOrder> {
        use {NewInput as I, NewStage as S};
        Some(match (self.stage, input) {
            (S::Over, _) => return None,
            (S::Greeting, I::Heard(UpgradeFrame::Hello(hello))) => {
                if hello.version < OLDEST || hello.oldest > VERSION {
                    return Some(self.give_up(format!(
                        "the running broker ({}) speaks versions {} to {} of the hand-over, this \
                         one {OLDEST} to {VERSION}",
                        hello.build, hello.oldest, hello.version
                    )));
                }
                self.go(S::Starting, NewOrder::Start)
            }
            (S::Starting, I::Started(shards)) => self.go(S::Taking, NewOrder::SayReady(shards)),
            (S::Taking, I::Heard(UpgradeFrame::All(_))) => self.go(S::Settling, NewOrder::Settle),
            (
                S::Taking,
                I::Heard(
                    frame @ (UpgradeFrame::Listener(_)
                    | UpgradeFrame::Tickets(..)
                    | UpgradeFrame::Files(_)
                    | UpgradeFrame::Client(_)
                    | UpgradeFrame::Early(_)
                    | UpgradeFrame::Known(..)
                    | UpgradeFrame::Rest(_)
                    | UpgradeFrame::Gone(..)
                    | UpgradeFrame::Stale(..)
                    | UpgradeFrame::Counters(..)
                    | UpgradeFrame::Unretained(_)
                    | UpgradeFrame::Offences(..)
                    | UpgradeFrame::Retained(_)
                    | UpgradeFrame::Node(_)
                    | UpgradeFrame::Bans(_)
                    | UpgradeFrame::Store
                    | UpgradeFrame::Durable),
                ),
            ) => {
                // Before that, old serves all clients, and they are lost with old.
                self.took |= matches!(frame, UpgradeFrame::Stale(..));
                NewOrder::Take
            }
            (S::Taking, I::Ended) if self.took && self.is_child => {
                self.go(S::Alone, NewOrder::Settle)
            }
            (S::Prepared, I::Ended) if self.is_child => self.go(S::Over, NewOrder::Serve),
            (S::Alone, I::Holds(_)) => self.go(S::Over, NewOrder::Serve),
            (S::Settling, I::Holds(totals)) => self.go(S::Prepared, NewOrder::SayPrepared(totals)),
            (S::Prepared, I::Heard(UpgradeFrame::Commit)) => {
                self.go(S::Over, NewOrder::SayCommittedAndServe)
            }
            (_, I::Ended) => self.give_up("the running broker has given up".to_owned()),
            (_, I::Failed(why)) => self.give_up(why),
            (_, I::Heard(UpgradeFrame::Refused(why))) => self.give_up(why.to_string()),
            (_, I::Heard(_) | I::Started(_) | I::Holds(_)) => {
                self.give_up("the running broker does not keep to the protocol".to_owned())
            }
        })
    }

    fn go(&mut self, stage: NewStage, order: NewOrder) -> NewOrder {
        self.stage = stage;
        order
    }

    fn give_up(&mut self, why: String) -> NewOrder {
        self.go(NewStage::Over, NewOrder::GiveUp(why))
    }
}

#[cfg(test)]
#[path = "sides_tests.rs"]
mod tests;
