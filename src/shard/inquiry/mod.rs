//! What operators ask a shard, and what they have it do: pages of its clients, subscriptions,
//! topics and retained messages; the details of one client, and its end; publishing a message.
//!
//! Each function here answers one question. It runs within a step, looks at a bounded number of
//! things ([`INQUIRY_VISITS`]) and charges the step for them. A caller that wants more asks again
//! with [`Slice::next`]. Between two questions, sessions and filters may come and go: a list that
//! is read page by page contains everything that was there from the first page to the last, and
//! perhaps some of the rest.

mod bans;
mod clients;
mod explain;
mod submissions;
mod topics;

pub use bans::BanTarget;
pub use clients::{ClientDetails, ClientQuery, ClientTraffic, SubscriptionCursor, SubscriptionRow};
pub use explain::{Addressee, ExplainCursor, ExplainedAccess, Fate, Hypothesis};
pub use submissions::{Submission, SubmissionReply, Submissions};
pub use topics::{ClearOutcome, GroupMember, GroupRow, PublishOutcome, RetainedRow, TopicRow};

use crate::limits::INQUIRY_VISITS;

/// A part of a list: what was found, and where the list goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slice<T, C> {
    /// What was found.
    pub rows: Vec<T>,
    /// Where the next slice begins; `None` at the end of the list.
    pub next: Option<C>,
}

impl<T, C> Slice<T, C> {
    fn new() -> Self {
        Slice { rows: Vec::new(), next: None }
    }
}

/// How much one slice may still look at.
struct SliceBudget {
    visits: usize,
    rows: usize,
}

impl SliceBudget {
    /// For a slice of at most `rows` rows.
    fn for_rows(rows: usize) -> Self {
        SliceBudget { visits: INQUIRY_VISITS, rows: rows.clamp(1, INQUIRY_VISITS) }
    }

    /// Whether one more thing may be looked at, when so many rows have been `found`; counts it.
    fn lasts(&mut self, found: usize) -> bool {
        let lasts = found < self.rows && self.visits > 0;
        self.visits = self.visits.saturating_sub(1);
        lasts
    }

    /// How much has been looked at.
    fn used(&self) -> u32 {
        (INQUIRY_VISITS - self.visits) as u32
    }
}
