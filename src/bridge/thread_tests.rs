use super::*;
use crate::bridge::buffer::{Buffer, BufferPlace};
use crate::bridge::feed::{BridgeId, feed};
use crate::bridge::figures::BridgeFigures;
use crate::bridge::intake::WaitingPublishers;
use crate::bridge::testing::{Scratch, waited};
use crate::shard::{Answering, LinkPlan, WhenFull};
use std::sync::atomic::{AtomicUsize, Ordering};

/// An `Intake` with three messages for which publishers wait, and a count of how often their core
/// was told outcomes.
fn intake() -> (Intake, Arc<AtomicUsize>) {
    let figures = BridgeFigures::new("b", "mqtt", 1, 1000);
    let bell = Arc::default();
    let link = LinkPlan {
        filters: Vec::new(),
        numbers: Vec::new(),
        once: true,
        part: None,
        bytes: 1000,
        when_full: WhenFull::DropNew,
        names: false,
        own: None,
        zero: 0,
        answering: Answering::Delivered(None),
    };
    let (_, mut end) = feed(BridgeId(0), link, &bell, &figures.feeds[0]);
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    end.wake_by(Arc::new(move |_| _ = count.fetch_add(1, Ordering::Relaxed)));
    let mut buffer = Buffer::in_memory(1000, WhenFull::DropNew);
    assert!(buffer.push(waited(0..3)).is_none());
    let (orders, waiting) = (Arc::default(), WaitingPublishers::default());
    let numbers = Default::default();
    let intake = Intake { buffer, feeds: vec![end], figures, bell, orders, waiting, numbers };
    (intake, told)
}

const SHORT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(3));

/// Work that panics and work that cannot begin are tried again; publishers do not wait for the
/// messages meanwhile.
#[test]
fn work_that_fails_is_done_again() {
    let (intake, told) = intake();
    let figures = Arc::clone(&intake.figures);
    let tries = AtomicUsize::new(0);
    let seen = Arc::clone(&told);
    let work: BridgeWork = Arc::new(move |intake, _| match tries.fetch_add(1, Ordering::Relaxed) {
        0 => {
            intake.buffer.read().expect("a message");
            panic!("as it happens")
        }
        1 => {
            assert_eq!(seen.load(Ordering::Relaxed), 1, "those that wait have been told");
            assert_eq!(intake.figures.state(), BridgeState::Failed);
            Err("not yet".to_owned())
        }
        _ => {
            let mut numbers = Vec::new();
            while let Some((number, _)) = intake.read() {
                numbers.push(number);
            }
            assert_eq!(numbers, [0, 1, 2], "what was read before is read again");
            numbers.into_iter().for_each(|number| intake.delivered(number));
            Ok(())
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let intake = serve(&work, intake, &runtime, SHORT);
    assert_eq!((figures.failures.get(), figures.delivered.get()), (2, 3));
    assert!(intake.buffer.is_empty());
}

/// A bridge that has failed ends when it is to end, and so does one that would fail without end.
#[test]
fn work_that_fails_ends_when_it_is_to_end() {
    let (intake, _) = intake();
    intake.orders.hand_over(Instant::now());
    let work: BridgeWork = Arc::new(|_, _| Err("never".to_owned()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let long = (Duration::from_secs(3600), Duration::from_secs(3600));
    let intake = serve(&work, intake, &runtime, long);
    assert_eq!(intake.buffer.len(), 3, "another thread goes on with it");
}

/// The system gives no thread of this size, as when it has none left.
fn no_thread() -> std::thread::Builder {
    std::thread::Builder::new().stack_size(1 << 60)
}

/// What is meant for a thread is still there when the system gives none: the bridges of a reload go
/// back to the control thread, and the messages of a changed bridge are put away.
#[test]
fn without_a_thread_nothing_is_lost() {
    let unstarted = give(no_thread(), vec![1, 2], |all| all).expect_err("there is no thread");
    assert_eq!(unstarted.kept, [1, 2]);
    let thread = give(std::thread::Builder::new(), unstarted.kept, |all| all);
    assert_eq!(thread.expect("a thread").join().expect("it ends"), [1, 2]);

    let scratch = Scratch::new();
    let place = BufferPlace::Both(&scratch.0, 1 << 16);
    let (mut intake, told) = intake();
    intake.buffer = Buffer::open(1 << 16, WhenFull::Pause, place).expect("a directory");
    assert!(intake.buffer.push(waited(0..3)).is_none());
    intake.buffer.read().expect("it waits in memory, and is under way");
    let unstarted = give(no_thread(), intake, |intake| intake);
    let mut intake = unstarted.expect_err("there is no thread").kept;
    put_away(&mut intake);
    assert_eq!(told.load(Ordering::Relaxed), 1, "nobody waits for what is put away");
    drop(intake);
    let later = Buffer::open(1 << 16, WhenFull::Pause, place).expect("a directory");
    assert_eq!(later.len(), 3);
}
