//! Signals as values.

use std::time::Duration;

use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

use super::{Signal, channel, meaning};

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
    let (thread, receiver) = channel().unwrap();
    signal_hook::low_level::raise(SIGHUP).unwrap();
    assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(Signal::Reload));
    signal_hook::low_level::raise(SIGALRM).unwrap();
    assert_eq!(receiver.recv_timeout(Duration::from_secs(10)), Ok(Signal::Other(SIGALRM)));
    drop(thread);
    assert!(receiver.recv_timeout(Duration::from_secs(10)).is_err());
}
