//! Messages that bridges and the API, which are outside the shards, have a shard publish.
//!
//! Such a message comes after everything that was acknowledged before it was submitted, as a
//! client's PUBLISH does ([`crate::shard::step`]). An acknowledgement is sent only once its mail is
//! in the mailboxes, so a submission that is given later waits for the mail that is there at the
//! next look. The outcome of a submission is told only after its own mail has been put into the
//! mailboxes.

use crate::mesh::reading::MailPosition;
use crate::mutant::Mutant;
use crate::shard::Shard;
use std::collections::VecDeque;

/// Publishes a message, and returns what tells the outcome to the submitter.
pub type Submission = Box<dyn FnOnce(&mut Shard) -> SubmissionReply + Send>;
/// Tells the outcome to the submitter.
pub type SubmissionReply = Box<dyn FnOnce() + Send>;

/// The submissions that a shard has been given, in order. The submitters bound their number: each
/// waits for the outcome of its earlier submissions.
#[derive(Default)]
pub struct Submissions {
    /// Each submission with the mail that it waits for, once that is known.
    waiting: VecDeque<(Option<MailPosition>, Submission)>,
    told: Vec<SubmissionReply>,
}

impl Submissions {
    /// Adds a submission. Must be called between two steps.
    pub fn push(&mut self, submission: Submission) {
        self.waiting.push_back((None, submission));
    }

    /// Publishes the submissions that have waited long enough: at least one, and more while the
    /// step has work left. True when there were any. Must be called after mail has been taken in.
    pub fn run(&mut self, shard: &mut Shard) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let behind = shard.mail.intake.behind && !Mutant::SubmissionOvertakesMail.is_on();
        if behind {
            let noted = shard.mail.intake.noted();
            let new = self.waiting.iter_mut().rev().take_while(|(position, _)| position.is_none());
            new.for_each(|(position, _)| *position = Some(noted.clone()));
        }
        let mut any = false;
        while !any || shard.has_work_left() {
            let intake = &shard.mail.intake;
            let may_go = |(position, _): &mut (Option<MailPosition>, Submission)| {
                position.as_ref().is_none_or(|position| !behind || intake.is_past(position))
            };
            let Some((_, submission)) = self.waiting.pop_front_if(may_go) else { break };
            any = true;
            let told = submission(shard);
            self.told.push(told);
        }
        any
    }

    /// Tells the outcomes. Must be called after a step, when the mail of what was published is in
    /// the mailboxes.
    pub fn tell(&mut self) {
        self.told.drain(..).for_each(|told| told());
    }
}
