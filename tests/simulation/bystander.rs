//! One client on each shard that does nothing but ping. Whatever the others do, its PINGRESP is
//! written within a bounded number of its shard's steps.

use crate::net::{ConnId, End};
use crate::peer::{Peer, hello};
use crate::world::World;
use ringmq::packet::{Connect, Version};

/// Steps that a PINGREQ may take besides those that others' turns before it take.
const STEPS: usize = 8;

pub struct Bystander {
    conn: ConnId,
    /// Steps that the PINGREQ under way may still take, and once took.
    left: Option<(usize, usize)>,
    asked: bool,
    /// Answers so far.
    pub pongs: u64,
}

impl Bystander {
    /// One on each shard, by its number. Nobody else may do anything meanwhile.
    pub fn on_each(world: &mut World) -> Vec<Bystander> {
        let mut homes: Vec<Option<ConnId>> = vec![None; world.nodes.len()];
        for number in 0..100 * world.nodes.len() {
            if homes.iter().all(Option::is_some) {
                break;
            }
            let name = format!("bystander-{number}");
            // Version 3: the broker cannot impose a keep-alive on it.
            let (version, properties) = (Version::V311, Default::default());
            let connect = Connect { version, properties, ..hello(&name, true, 0) };
            let mut peer = Peer::connect(world, number % world.nodes.len(), &connect);
            assert_eq!(peer.take(world).len(), 1, "CONNACK for {name}");
            let home = world.nodes.iter().position(|node| node.driver.socket(peer.conn).is_some());
            let home = &mut homes[home.expect("it is connected")];
            if home.is_none() {
                *home = Some(peer.conn);
            } else {
                peer.goodbye(world);
            }
        }
        let new = |conn| Bystander { conn, left: None, asked: false, pongs: 0 };
        homes.into_iter().map(|home| new(home.expect("a name for each shard"))).collect()
    }

    /// A step of its shard is over.
    pub fn after_step(&mut self, world: &mut World, node: usize, ask: bool) {
        let wire = &mut world.conns[self.conn];
        assert_eq!(wire.server, End::Open, "a bystander was parted with");
        let driver = &world.nodes[node].driver;
        if self.asked {
            let answered = driver.is_sending(self.conn) || !wire.down.is_empty();
            match &mut self.left {
                _ if answered => {
                    wire.down.clear();
                    (self.asked, self.left) = (false, None);
                    self.pongs += 1;
                }
                // The driver has it now: behind what it had already, and each of those who share
                // the shard may have their turn first.
                None if wire.up.is_empty() => {
                    let queued = driver.queued() / world.limit;
                    let most = STEPS + queued + driver.open();
                    self.left = Some((most, most));
                }
                None => {}
                Some((left, most)) => {
                    assert!(*left > 0, "no PINGRESP in {most} steps of shard {node}");
                    *left -= 1;
                }
            }
        } else if ask && !driver.is_sending(self.conn) {
            wire.down.clear();
            wire.up.extend([0xC0, 0]);
            self.asked = true;
        }
    }

    pub fn end(self, world: &mut World) {
        world.conns[self.conn].client = End::Reset;
    }
}
