//! The thread of a bridge: it does the bridge's work, and begins again when that has failed. What
//! waits and what the cores feed belong to the thread and not to the work, so that they outlive
//! both a failure and a change of the configuration.
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
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// What a bridge does until it is to end; it can be done again.
pub type Work = Arc<dyn Fn(&mut Intake, &Runtime) -> Result<(), String> + Send + Sync>;

/// The pause after the first failure, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// Work that has gone on for so long has not failed again.
const SOUND: Duration = Duration::from_secs(300);
/// How often a thread that has failed takes in what the cores have.
const TURN: Duration = Duration::from_millis(200);

/// Starts the thread; it gives the near side back at its end.
///
/// # Errors
/// When there is no thread to be had.
pub fn start(name: &str, work: Work, intake: Intake) -> io::Result<JoinHandle<Intake>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name(format!("bridge-{name}"));
    thread.spawn(move || serve(&work, intake, &runtime, PAUSE))
}

/// Works until it is to end. Then what waits is put away, unless another thread goes on with it.
fn serve(
    work: &Work,
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
        // What cannot be done now either waits for the next attempt.
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

/// Does something that may panic, where a panic does not end the process.
fn attempt(work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(words(&*panic)))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}

/// After a failure: nobody waits for what it had; what comes is taken in.
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
