//! Fences: points in what this node sends, behind which everything is routed by what this node
//! knows now. The shards look at the interest table and write down what they route for another node
//! in the same step, so each has only to say when all that it wrote before is in the mailboxes.

/// What a fence was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Job {
    /// A session moves.
    Session {
        /// Whose claim; `None`: this node's.
        claimant: Option<u8>,
        /// Its number.
        claim: u64,
        /// Who is to hear of it; `None`: this node.
        holder: Option<u8>,
    },
    /// That node is told of all retained messages.
    Retelling(u8),
    /// That node has asked with that number, and the shards have to know of its share groups.
    Known(u8, u64),
}

/// The fences of a node: one round through its shards at a time, for all who asked before it began.
pub struct Fences {
    jobs: Vec<Job>,
    later: Vec<Job>,
    /// Shards that have not answered.
    left: u8,
    shards: u8,
}

impl Fences {
    /// Of a node of so many shards.
    pub fn new(shards: u8) -> Fences {
        Fences { jobs: Vec::new(), later: Vec::new(), left: 0, shards }
    }

    /// One more.
    pub fn ask(&mut self, job: Job) {
        self.later.push(job);
    }

    /// True when a round begins: each shard is to be asked.
    pub fn begins(&mut self) -> bool {
        if self.left > 0 || self.later.is_empty() {
            return false;
        }
        self.jobs = std::mem::take(&mut self.later);
        self.left = self.shards;
        true
    }

    /// A shard has answered. The fences of the round, once all have.
    pub fn answered(&mut self) -> Vec<Job> {
        self.left = self.left.saturating_sub(1);
        if self.left > 0 { Vec::new() } else { std::mem::take(&mut self.jobs) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_during_a_round_waits_for_the_next() {
        let job = |claim| Job::Session { claimant: Some(1), claim, holder: None };
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
