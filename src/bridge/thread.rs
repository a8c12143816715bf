//! The thread of a bridge: it does the bridge's work, and starts the work again after a failure.
//! The buffer and the cores' rings belong to the thread and not to the work, so they outlive both a
//! failure and a change of the configuration.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "threads of their own, which share one order with the control thread"
)]

use super::figures::BridgeState;
use super::intake::Intake;
use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// What a bridge does until it is to end. After a failure it is called again.
pub type BridgeWork = Arc<dyn Fn(&mut Intake, &Runtime) -> Result<(), String> + Send + Sync>;

/// The pause after the first failure, and the longest pause.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// After work has lasted this long, its next failure counts as the first one.
const SOUND: Duration = Duration::from_secs(300);
/// How often a thread is asked for again when there is none.
const TRIES: u32 = 25;
/// The interval at which a thread that has failed takes in the cores' messages.
const TURN: Duration = Duration::from_millis(200);

/// No thread was started; what was meant for it is still there.
#[derive(Debug)]
pub struct Unstarted<T> {
    /// Why.
    pub error: io::Error,
    /// What was meant for the thread.
    pub kept: T,
}

/// Starts a thread that owns `what` from then on. It gets `what` only when it runs:
/// [`std::thread::Builder::spawn`] would drop it together with the closure when there is no thread.
///
/// # Errors
/// Fails when the system gives no thread, and gives `what` back.
pub fn give<T: Send + 'static, R: Send + 'static>(
    thread: std::thread::Builder,
    what: T,
    work: impl FnOnce(T) -> R + Send + 'static,
) -> Result<JoinHandle<R>, Unstarted<T>> {
    let (sender, receiver) = channel();
    let started = thread.spawn(move || {
        let what = receiver.recv().expect("it is sent as soon as there is a thread");
        work(what)
    });
    match started {
        Ok(thread) => {
            // The thread waits for it.
            let _ = sender.send(what);
            Ok(thread)
        }
        Err(error) => Err(Unstarted { error, kept: what }),
    }
}

/// Starts the thread, which returns its [`Intake`] at its end.
///
/// # Errors
/// Fails when the system gives no thread or no runtime for it, and gives the [`Intake`] back.
#[allow(clippy::result_large_err, reason = "what is not taken is given back, once per thread")]
pub fn start(
    name: &str,
    work: BridgeWork,
    intake: Intake,
) -> Result<JoinHandle<Intake>, Unstarted<Intake>> {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Err(Unstarted { error, kept: intake }),
    };
    let thread = std::thread::Builder::new().name(format!("bridge-{name}"));
    give(thread, intake, move |intake| serve(&work, intake, &runtime, PAUSE))
}

/// Starts the thread as [`start`] does, and tries it again for a while if there is none: a lack of
/// threads or descriptors may be short.
///
/// # Errors
/// The last error of [`start`].
#[allow(clippy::result_large_err, reason = "what is not taken is given back, once per thread")]
pub fn start_patiently(
    name: &str,
    work: &BridgeWork,
    mut intake: Intake,
    hurries: impl Fn() -> bool,
) -> Result<JoinHandle<Intake>, Unstarted<Intake>> {
    for _ in 0..TRIES {
        match start(name, Arc::clone(work), intake) {
            Err(unstarted) if !hurries() => intake = unstarted.kept,
            other => return other,
        }
        std::thread::sleep(TURN);
    }
    start(name, Arc::clone(work), intake)
}

/// Puts away what waits in an [`Intake`] that has no thread any more and gets none, as the thread
/// would have done at its end. Publishers that wait for its messages are told that these are
/// dropped.
pub fn put_away(intake: &mut Intake) {
    intake.buffer.rewind();
    intake.close();
    intake.release();
}

/// Works until the bridge is to end. Then waiting messages are put away, unless another thread
/// continues with them.
fn serve(
    work: &BridgeWork,
    mut intake: Intake,
    runtime: &Runtime,
    pause: (Duration, Duration),
) -> Intake {
    let mut failures = 0;
    loop {
        let began = Instant::now();
        let Err(why) = attempt(|| work(&mut intake, runtime)) else { break };
        failures = if began.elapsed() > SOUND { 0 } else { failures };
        let pause = pause.0.saturating_mul(1 << failures.min(10)).min(pause.1);
        failures += 1;
        let bridge = &*intake.figures.name;
        let seconds = pause.as_secs();
        tracing::error!(bridge, why, seconds, "a bridge has failed; it begins again");
        // If this fails too, the next attempt to work comes all the same.
        let _ = attempt(|| runtime.block_on(rest(&mut intake, pause)));
        if intake.orders.is_ending() {
            break;
        }
    }
    if !intake.orders.hands_over() {
        let closed = attempt(|| {
            runtime.block_on(async { intake.close() });
            Ok(())
        });
        if let Err(why) = closed {
            let bridge = &*intake.figures.name;
            tracing::error!(bridge, why, "what waited could not be put away");
        }
    }
    intake
}

/// Calls `work`, which may panic; a panic becomes an error and does not end the process.
fn attempt(work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(words(&*panic)))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}

/// The pause after a failure: waiting publishers are told that their messages are dropped, and
/// further messages are taken in.
async fn rest(intake: &mut Intake, pause: Duration) -> Result<(), String> {
    intake.figures.set_state(BridgeState::Failed);
    intake.figures.failures.add(1);
    intake.release();
    intake.buffer.rewind();
    let until = Instant::now() + pause;
    while Instant::now() < until && !intake.orders.is_ending() {
        tokio::time::sleep(TURN.min(pause)).await;
        intake.take();
    }
    Ok(())
}

#[cfg(test)]
#[path = "thread_tests.rs"]
mod tests;
