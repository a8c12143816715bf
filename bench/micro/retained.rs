//! A million retained messages: memory per message, and the times of storing and replaying them.

use crate::timing::resident_bytes;
use ringmq::topic::{Pass, Retained};
use std::time::Instant;

const COUNT: usize = 1_000_000;

fn time(what: &str, count: usize, work: &mut dyn FnMut()) {
    let started = Instant::now();
    work();
    println!("  {what}: {} ns", started.elapsed().as_nanos() / count as u128);
}

pub fn run() {
    let name = |at: usize| format!("fleet/{:03}/truck/{at:07}/state", at % 500);
    // The names are in another order than the tree's.
    let names: Vec<String> = (0..COUNT).map(|at| name(at * 999_983 % COUNT)).collect();
    let before = resident_bytes();
    let mut retained = Retained::new();
    time("set, new", COUNT, &mut || {
        names.iter().for_each(|name| assert!(retained.set(name, 1usize).is_none()));
    });
    let text = names[0].len();
    let bytes = (resident_bytes() - before) / COUNT - text;
    println!("  {bytes} bytes a message besides {text} of name, handle of 8 included");
    time("set, replacing, random", COUNT, &mut || {
        names.iter().for_each(|name| assert!(retained.set(name, 2).is_some()));
    });
    time("set, replacing, the same 1000", COUNT, &mut || {
        let few = names[..1000].iter().cycle().take(COUNT);
        few.for_each(|name| assert!(retained.set(name, 3).is_some()));
    });
    let replay = |filter: &str, expected: usize| {
        let (mut found, mut cursor) = (0, None::<Box<str>>);
        time(&format!("replay of {filter}, {expected} messages, each"), expected, &mut || {
            let count = &mut |_: &str, _: &usize| found += 1;
            while let Pass::More(next) =
                retained.replay(filter, cursor.as_deref(), 256, &mut 4096, count)
            {
                cursor = Some(next);
            }
        });
        assert_eq!(found, expected);
    };
    replay("#", COUNT);
    replay("fleet/250/#", COUNT / 500);
    replay("fleet/+/truck/0000250/state", 1);
    replay("+/+/+/+/state", COUNT);
}
