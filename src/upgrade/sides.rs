//! The two processes of an upgrade, as far as it matters who serves: what each does with what it
//! hears from the other, with the other's death, and with too long a wait.
//!
//! Old serves until it has read [`Frame::Committed`], with a pause; new serves once it has said it.
//! Only what becomes of a new process that said [`Frame::Committed`] after old had given up waiting
//! and killed it is lost: old cannot know what new has done for clients meanwhile, so it does not
//! go on with what it has, and ends ([`OldOrder::EndLost`]).
//!
//! When old is dead, nobody else serves: new serves what it has been sent by then, if old rested
//! already; what was only copied of a client is of no use. Old is dead when
//! its end is closed, if new is its child: while it lives, it kills its child before it closes its
//! end. A program in between would be killed in place of new, so then new gives up.

use super::frame::{Frame, Totals};
use super::{OLDEST, VERSION};
use std::time::Duration;

/// What old learns.
pub enum OldInput<'a> {
    /// New says this.
    Heard(&'a Frame),
    /// What can be copied of clients while they are served was sent.
    Copied,
    /// Every shard is suspended and has finished what was under way.
    Quiet,
    /// All clients were sent.
    Sent(Totals),
    /// New is dead, and all that it has said was heard.
    Ended,
    /// The stage has lasted for as long as it may.
    Late,
    /// It cannot go on, for this reason.
    Failed(String),
}

/// What old does next.
#[derive(PartialEq, Eq, Debug)]
pub enum OldOrder {
    /// Copy clients while they are served.
    Copy,
    /// Suspend the shards.
    Suspend,
    /// Send the clients.
    Send,
    /// Say that this was all.
    SayAll(Totals),
    /// Say that new may serve.
    SayCommit,
    /// Kill new.
    Kill,
    /// Serve on; new is dead or will be, and why.
    GoOn(String),
    /// End: new serves.
    End,
    /// End, since what new has done for clients before it was killed is not known.
    EndLost,
}

impl OldOrder {
    /// Whether something begins with it that takes time.
    pub fn begins_stage(&self) -> bool {
        use OldOrder as O;
        matches!(self, O::Copy | O::Suspend | O::Send | O::SayAll(_) | O::SayCommit)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum OldStage {
    /// New starts.
    Starting,
    /// Clients are copied, and served.
    Copying,
    /// The shards finish what is under way.
    Quieting,
    /// Clients are sent.
    Sending,
    /// All were sent, new is not ready yet.
    Offered(Totals),
    /// New may serve, and has not said so.
    Committing,
    /// It was killed then.
    Killed,
    /// Decided.
    Over,
}

/// The old process.
pub struct Old {
    stage: OldStage,
}

impl Default for Old {
    fn default() -> Old {
        Old { stage: OldStage::Starting }
    }
}

impl Old {
    /// How long the present stage may last; `None` when all is decided.
    pub fn patience(&self) -> Option<Duration> {
        let seconds = match self.stage {
            OldStage::Starting => 60,
            OldStage::Copying => 120,
            OldStage::Quieting => 2,
            OldStage::Sending => 60,
            OldStage::Offered(_) | OldStage::Committing => 10,
            // A killed process is dead soon; there is nothing else to do but wait.
            OldStage::Killed => 60,
            OldStage::Over => return None,
        };
        Some(Duration::from_secs(seconds))
    }

    /// What to do now, in turn.
    pub fn handle(&mut self, input: OldInput<'_>) -> Vec<OldOrder> {
        use {OldInput as I, OldStage as S};
        match (self.stage, input) {
            (S::Over, _) => Vec::new(),
            (S::Starting, I::Heard(Frame::Ready(_))) => self.go(S::Copying, OldOrder::Copy),
            (S::Copying, I::Heard(Frame::Taken(_))) => Vec::new(),
            (S::Copying, I::Copied) => self.go(S::Quieting, OldOrder::Suspend),
            (S::Quieting, I::Heard(Frame::Taken(_))) => Vec::new(),
            (S::Quieting, I::Quiet) => self.go(S::Sending, OldOrder::Send),
            (S::Sending, I::Heard(Frame::Taken(_))) => Vec::new(),
            (S::Sending, I::Sent(totals)) => self.go(S::Offered(totals), OldOrder::SayAll(totals)),
            (S::Offered(_), I::Heard(Frame::Taken(_))) => Vec::new(),
            (S::Offered(sent), I::Heard(Frame::Prepared(got))) if sent == *got => {
                self.go(S::Committing, OldOrder::SayCommit)
            }
            (S::Offered(_), I::Heard(Frame::Prepared(_))) => {
                self.give_up("the new process has not got all clients".to_owned())
            }
            (S::Committing, I::Heard(Frame::Committed)) => self.go(S::Over, OldOrder::End),
            // Killed first, and only what it said until then is decisive.
            (S::Committing, I::Late | I::Failed(_) | I::Heard(_)) => {
                self.go(S::Killed, OldOrder::Kill)
            }
            (S::Killed, I::Heard(Frame::Committed)) => self.go(S::Over, OldOrder::EndLost),
            (S::Committing | S::Killed, I::Ended) => {
                let why = "the new process has ended before it served".to_owned();
                self.go(S::Over, OldOrder::GoOn(why))
            }
            (S::Killed, I::Late) => self.go(S::Over, OldOrder::EndLost),
            (S::Killed, _) => Vec::new(),
            (_, I::Heard(Frame::Refused(why))) => self.give_up(format!("it refuses: {why}")),
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

    /// New was never told to serve: it does not, dead or alive.
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

/// What new learns.
pub enum NewInput<'a> {
    /// Old says this.
    Heard(&'a Frame),
    /// Its cores run, so many.
    Started(u8),
    /// It has taken in so much by now, and its shards have finished what that caused.
    Holds(Totals),
    /// Old has closed its end.
    Ended,
    /// It cannot go on, for this reason.
    Failed(String),
}

/// What new does next.
#[derive(PartialEq, Eq, Debug)]
pub enum NewOrder {
    /// Start its cores.
    Start,
    /// Say that it has started.
    SayReady(u8),
    /// Take in what was heard.
    Take,
    /// Tell what it holds once all is taken in: [`NewInput::Holds`].
    Settle,
    /// Say that it is ready to serve this.
    SayPrepared(Totals),
    /// Say that it serves, and then serve.
    SayCommittedAndServe,
    /// Serve: old is dead.
    Serve,
    /// Say why not, if anybody listens, and end.
    GiveUp(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NewStage {
    Greeting,
    Starting,
    Taking,
    Settling,
    Prepared,
    /// Settling, and old is dead.
    Alone,
    Over,
}

/// The new process.
pub struct New {
    stage: NewStage,
    /// Something of a client that old serves no more has come.
    took: bool,
    /// Old is its parent.
    is_child: bool,
}

impl Default for New {
    fn default() -> New {
        New { stage: NewStage::Greeting, took: false, is_child: false }
    }
}

impl New {
    /// Old is this process's parent.
    pub fn is_child(&mut self) {
        self.is_child = true;
    }

    /// What to do now.
    pub fn handle(&mut self, input: NewInput<'_>) -> Option<NewOrder> {
        use {NewInput as I, NewStage as S};
        Some(match (self.stage, input) {
            (S::Over, _) => return None,
            (S::Greeting, I::Heard(Frame::Hello(hello))) => {
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
            (S::Taking, I::Heard(Frame::All(_))) => self.go(S::Settling, NewOrder::Settle),
            (
                S::Taking,
                I::Heard(
                    frame @ (Frame::Listener(_)
                    | Frame::Tickets(..)
                    | Frame::Files(_)
                    | Frame::Client(_)
                    | Frame::Early(_)
                    | Frame::Known(..)
                    | Frame::Rest(_)
                    | Frame::Retained(_)
                    | Frame::Bans(_)
                    | Frame::Store),
                ),
            ) => {
                // Whoever was only copied is served by old, and lost with it.
                self.took |= matches!(
                    frame,
                    Frame::Client(_) | Frame::Rest(_) | Frame::Retained(_) | Frame::Bans(_)
                );
                NewOrder::Take
            }
            (S::Taking, I::Ended) if self.took && self.is_child => {
                self.go(S::Alone, NewOrder::Settle)
            }
            (S::Prepared, I::Ended) if self.is_child => self.go(S::Over, NewOrder::Serve),
            (S::Alone, I::Holds(_)) => self.go(S::Over, NewOrder::Serve),
            (S::Settling, I::Holds(totals)) => self.go(S::Prepared, NewOrder::SayPrepared(totals)),
            (S::Prepared, I::Heard(Frame::Commit)) => {
                self.go(S::Over, NewOrder::SayCommittedAndServe)
            }
            (_, I::Ended) => self.give_up("the running broker has given up".to_owned()),
            (_, I::Failed(why)) => self.give_up(why),
            (_, I::Heard(Frame::Refused(why))) => self.give_up(why.to_string()),
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
