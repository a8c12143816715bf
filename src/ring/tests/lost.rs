use super::support::*;
use crate::ring::uring::BATCH;
use crate::ring::*;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::time::Duration;

/// Loses every completion that is there, as a kernel without memory does.
fn lose(ring: &mut Ring) -> usize {
    let mut lost = 0;
    loop {
        // The kernel hands out some at a time.
        ring.rings[0].turn();
        ring.rings[0].harvest();
        let mut batch = [const { MaybeUninit::uninit() }; BATCH];
        match ring.rings[0].take(&mut batch, BATCH).len() {
            0 => break,
            some => lost += some,
        }
    }
    ring.rings[0].lost = true;
    lost
}

#[test]
fn after_lost_completions_every_connection_ends_and_the_ring_goes_on() {
    let (mut ring, address) = open(config());
    run_for(&mut ring, &mut (), Duration::from_millis(10), |_, _, _| {});
    let before = at_rest(&ring);
    for round in 1..=3 {
        let mut echo = Echo::default();
        let mut clients: Vec<_> = (0..20).map(|_| connect(address)).collect();
        run(&mut ring, &mut echo, Echo::handle, |echo, _| echo.accepted == 20);
        // One send that its reader does not take, receives and accepts that are lost.
        let (&stuck, state) = echo.sockets.iter_mut().next().unwrap();
        state.1 = true;
        ring.send(stuck, Outgoing::One(vec![5; 64 << 20]));
        run_for(&mut ring, &mut echo, Duration::from_millis(10), Echo::handle);
        clients.iter_mut().for_each(|client| client.write_all(&[7; 1000]).unwrap());
        let late: Vec<_> = (0..5).map(|_| connect(address)).collect();
        std::thread::sleep(Duration::from_millis(30));
        assert!(lose(&mut ring) >= 25, "receives and accepts");
        run(&mut ring, &mut echo, Echo::handle, |echo, _| echo.sockets.is_empty());
        assert_eq!(echo.closed, 20);
        assert_eq!(ring.counts().losses, round);
        for mut client in clients.into_iter().chain(late) {
            let _ = client.read_to_end(&mut Vec::new()); // the end of the stream, or a reset
        }
        // Whoever comes back is served.
        let mut again: Vec<_> = (0..20).map(|_| connect(address)).collect();
        again.iter_mut().for_each(|client| client.write_all(b"again").unwrap());
        run(&mut ring, &mut echo, Echo::handle, |echo, _| echo.received == 20 * 5);
        run_for(&mut ring, &mut echo, Duration::from_millis(10), Echo::handle);
        for client in &mut again {
            let mut answer = [0; 5];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"again");
        }
        drop(again);
        run(&mut ring, &mut echo, Echo::handle, |echo, _| echo.sockets.is_empty());
        run_for(&mut ring, &mut echo, Duration::from_millis(20), Echo::handle);
        assert_eq!(at_rest(&ring), before, "round {round}");
    }
    // The doorbell is still heard.
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight bytes into an eventfd that the driver owns.
    assert_eq!(unsafe { libc::write(ring.doorbell.fd(), one.as_ptr().cast(), 8) }, 8);
    let mut rung = false;
    run(
        &mut ring,
        &mut rung,
        |rung, _, event| *rung |= matches!(event, Event::Doorbell),
        |rung, _| *rung,
    );
}
