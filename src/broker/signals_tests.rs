//! Signals as values.

use std::time::Duration;

use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

use super::{Signal, SignalQueue, channel, meaning};

#[test]
fn the_first_stop_drains_the_second_stops_and_the_third_kills() {
    let mut stops = 0;
    let cases = [
        (SIGHUP, Some(Signal::Reload)),
        (SIGTERM, Some(Signal::Stop)),
        (SIGHUP, Some(Signal::Reload)),
        (SIGUSR1, Some(Signal::Summary)),
        (SIGUSR2, Some(Signal::Upgrade)),
        (libc::SIGRTMAX(), Some(Signal::Other(libc::SIGRTMAX()))),
        (SIGINT, Some(Signal::StopNow)),
        (SIGTERM, None),
    ];
    for (signal, expected) in cases {
        assert_eq!(meaning(signal, &mut stops), expected);
    }
}

#[test]
fn signals_arrive_in_the_channel_and_dropping_the_thread_ends_it() {
    let (thread, queue) = channel().unwrap();
    let receiver = &queue.receiver;
    signal_hook::low_level::raise(SIGHUP).unwrap();
    assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(Signal::Reload));
    signal_hook::low_level::raise(SIGALRM).unwrap();
    assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(Signal::Other(SIGALRM)));
    drop(thread);
    signal_hook::low_level::raise(SIGHUP).unwrap();
    assert!(receiver.recv_timeout(Duration::from_millis(200)).is_err());
}

#[test]
fn a_signal_to_stop_is_found_and_the_others_stay() {
    let (sender, receiver) = crossbeam_channel::bounded(16);
    let queue = SignalQueue { receiver, sender: sender.clone() };
    assert!(!queue.says_stop());
    for signal in [Signal::Reload, Signal::Summary] {
        sender.send(signal).unwrap();
        assert!(!queue.says_stop());
    }
    for stop in [Signal::Stop, Signal::StopNow] {
        sender.send(stop).unwrap();
        assert!(queue.says_stop() && !queue.says_stop());
    }
    let left: Vec<Signal> = queue.receiver.try_iter().collect();
    assert_eq!(left, [Signal::Reload, Signal::Summary]);
}
