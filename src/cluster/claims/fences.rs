//! Fences. A fence is a point in the stream of this node's messages, behind which this node routes
//! everything by what it knows when the fence is asked for. A shard looks at the interest table and
//! writes mail for other nodes in the same step, so each shard only has to report that all its
//! earlier mail is in the mailboxes.

/// The purpose of a fence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FencePurpose {
    /// A session moves.
    Session {
        /// The claimant; `None` for this node.
        claimant: Option<u8>,
        /// The claim's number.
        claim: u64,
        /// The node that is to hear of the fence; `None` for this node.
        holder: Option<u8>,
    },
    /// The node with this number is told all retained messages.
    Retelling(u8),
    /// The node with the first number has asked a question with the second one, and the shards have
    /// to know its share groups before the answer.
    Known(u8, u64),
}

/// The fences of a node. One round goes through the shards at a time, for all fences that were
/// asked for before it began.
pub struct Fences {
    jobs: Vec<FencePurpose>,
    later: Vec<FencePurpose>,
    /// Shards that have not answered in this round.
    left: u8,
    shards: u8,
}

impl Fences {
    /// The fences of a node with `shards` shards.
    pub fn new(shards: u8) -> Fences {
        Fences { jobs: Vec::new(), later: Vec::new(), left: 0, shards }
    }

    /// Asks for one more fence.
    pub fn ask(&mut self, job: FencePurpose) {
        self.later.push(job);
    }

    /// Whether shards are being asked, or are to be.
    pub fn is_asking(&self) -> bool {
        self.left > 0 || !self.later.is_empty()
    }

    /// Begins a round if possible. Returns true when each shard is to be asked.
    pub fn begins(&mut self) -> bool {
        if self.left > 0 || self.later.is_empty() {
            return false;
        }
        self.jobs = std::mem::take(&mut self.later);
        self.left = self.shards;
        true
    }

    /// Notes the answer of a shard. Returns the fences of the round once all shards have answered.
    pub fn answered(&mut self) -> Vec<FencePurpose> {
        self.left = self.left.saturating_sub(1);
        if self.left > 0 { Vec::new() } else { std::mem::take(&mut self.jobs) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_during_a_round_waits_for_the_next() {
        let job = |claim| FencePurpose::Session { claimant: Some(1), claim, holder: None };
        let mut fences = Fences::new(2);
        assert!(!fences.begins());
        fences.ask(job(1));
        fences.ask(job(2));
        assert!(fences.begins());
        fences.ask(job(3));
        assert!(!fences.begins() && fences.answered().is_empty());
        assert_eq!(fences.answered(), [job(1), job(2)]);
        assert!(fences.begins());
        assert!(fences.answered().is_empty());
        assert_eq!(fences.answered(), [job(3)]);
        assert!(!fences.begins() && fences.answered().is_empty());
    }
}
