//! How a run ends: the clients leave, or the broker does.

use crate::client::{Fate, Stage};
use crate::net::End;
use crate::random::Sim;
use crate::world::Order;

impl Sim {
    /// One client says goodbye, for good.
    pub fn part(&mut self, at: usize) {
        self.clients[at].disconnect(&self.world, &mut self.run);
    }

    /// Everybody but the watcher of wills leaves in some way, and their sessions end.
    pub fn leave(&mut self) {
        for at in 1..self.clients.len() {
            let (world, run) = (&mut self.world, &mut self.run);
            match run.rng.below(3) {
                0 => self.clients[at].abandon(world, run, End::Reset),
                1 => self.clients[at].abandon(world, run, End::Fin),
                _ => self.part(at),
            }
        }
        self.rest(1000);
        for _ in 0..300 {
            self.world.advance(1000);
            self.pass();
        }
    }

    /// The broker stops as `broker::Broker::drain` does it: drain everywhere, one more pass
    /// everywhere, dismiss everywhere.
    pub fn drain(&mut self) {
        self.run.draining = true;
        for client in &mut self.clients {
            client.expect_drain();
        }
        self.world.order(&Order::Drain);
        self.everyone_once();
        self.everyone_once();
        let late = self.world.connect(0, 1000, 1000);
        assert_ne!(self.world.conns[late].server, End::Open, "nobody is let in any more");
        self.world.order(&Order::Dismiss);
        self.everyone_once();
        self.rest(6000);
        assert_eq!(self.world.problems(), Vec::<String>::new());
        for client in &self.clients {
            assert_eq!(client.stage, Stage::Offline, "{}: not dismissed", client.name);
        }
        for node in &self.world.nodes {
            assert!(node.shard.is_drained(), "{:?}", node.shard.audit());
            assert_eq!(node.driver.open(), 0, "sockets of {:?}", node.shard.id());
        }
        assert_eq!(self.world.shared.connections.used(), 0);
        for client in &mut self.clients {
            for will in &mut client.wills {
                // Its delay ends with the process (section 3.1.2.5 allows it).
                if let Fate::Delayed(_) = will.fate {
                    will.fate = Fate::Either;
                }
            }
        }
    }

    /// One step of every shard, in any order.
    fn everyone_once(&mut self) {
        let mut left: Vec<usize> = (0..self.world.nodes.len()).collect();
        while !left.is_empty() {
            let at = self.run.rng.below(left.len());
            self.step(left.swap_remove(at));
        }
    }
}
