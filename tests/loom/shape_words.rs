//! The wildcard shapes in use: whoever publishes after a SUBACK looks for the subscription's shape,
//! whatever other shards do with theirs.

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::explore;
use crate::shapes::Shapes;
use crate::topic::Shape;

const A: Shape = Shape(5);
const B: Shape = Shape(9);

fn sees(shapes: &Shapes<2>, shape: Shape) -> bool {
    shapes.iter().any(|seen| seen == shape)
}

#[test]
fn after_the_suback_the_shape_is_seen_by_all() {
    explore(3, || {
        let shapes = Arc::new(Shapes::<2>::new());
        let granted = Arc::new(AtomicBool::new(false));
        let first = (shapes.clone(), granted.clone());
        let subscriber = thread::spawn(move || {
            assert!(first.0.acquire(A).is_some());
            first.1.store(true, Ordering::Release);
        });
        let second = shapes.clone();
        let other = thread::spawn(move || {
            let at = second.acquire(B).unwrap();
            second.release(at, B);
        });
        if granted.load(Ordering::Acquire) {
            assert!(sees(&shapes, A));
        }
        subscriber.join().unwrap();
        other.join().unwrap();
        assert!(sees(&shapes, A) && !sees(&shapes, B));
    });
}

#[test]
fn two_shards_of_one_shape_do_not_take_it_from_each_other() {
    explore(3, || {
        let shapes = Arc::new(Shapes::<2>::new());
        let held = shapes.acquire(A).unwrap();
        let other = shapes.clone();
        let stays = thread::spawn(move || {
            let at = other.acquire(A).unwrap();
            assert!(sees(&other, A), "seen by the shard that has it");
            at
        });
        shapes.release(held, A);
        let at = stays.join().unwrap();
        assert!(sees(&shapes, A), "the other shard still has it");
        shapes.release(at, A);
        assert_eq!(shapes.iter().count(), 0, "every word is free again");
    });
}

#[test]
fn when_all_words_are_taken_a_shard_is_told_so_and_nothing_is_lost() {
    explore(2, || {
        let shapes = Arc::new(Shapes::<1>::new());
        let threads = [A, B].map(|shape| {
            let shapes = shapes.clone();
            thread::spawn(move || shapes.acquire(shape).map(|at| (at, shape)))
        });
        let got = threads.map(|thread| thread.join().unwrap());
        let (at, shape) = match got {
            [Some(got), None] | [None, Some(got)] => got,
            other => panic!("one word for one shape: {other:?}"),
        };
        assert_eq!(shapes.iter().collect::<Vec<_>>(), [shape]);
        shapes.release(at, shape);
        assert_eq!(shapes.iter().count(), 0);
    });
}
