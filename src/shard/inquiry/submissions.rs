//! What somebody outside the shards has one of them publish: bridges and the API.
//!
//! It comes after what was acknowledged before it, as a client's PUBLISH does
//! ([`crate::shard::step`]): an acknowledgement is sent only once its mail is in the mailboxes, so
//! a submission that is given later waits for the mail that is there at the next look. And its own
//! outcome is told only after its mail has been put into the mailboxes.

use crate::mesh::reading::MailPosition;
use crate::mutant::Mutant;
use crate::shard::Shard;
use std::collections::VecDeque;

/// Publishes, and returns what tells the outcome to whoever asked.
pub type Submission = Box<dyn FnOnce(&mut Shard) -> Told + Send>;
/// Tells an outcome.
pub type Told = Box<dyn FnOnce() + Send>;

/// The submissions that a shard has been given, in order. Who gives them bounds their number: each
/// waits for the outcome of what it has given before.
#[derive(Default)]
pub struct Submissions {
    /// Each with the mail that it waits for, once that is known.
    waiting: VecDeque<(Option<MailPosition>, Submission)>,
    told: Vec<Told>,
}

impl Submissions {
    /// Between two steps.
    pub fn push(&mut self, submission: Submission) {
        self.waiting.push_back((None, submission));
    }

    /// Publishes what has waited long enough, as far as the step's work lasts, and at least one;
    /// true when there was any. Comes after mail has been taken in.
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

    /// Tells the outcomes. Comes after a step: what was published is in the mailboxes.
    pub fn tell(&mut self) {
        self.told.drain(..).for_each(|told| told());
    }
}
