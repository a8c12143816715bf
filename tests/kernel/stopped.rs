//! SIGSTOP for longer than keep-alives allow, then SIGCONT: silence that was the broker's own is
//! nobody's fault.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::lasting;
use crate::line::Line;
use crate::probe::figure;
use crate::support::*;

/// More than one step takes in, so that timers are due before all input has been seen.
const CLIENTS: usize = 3000;

/// Sends PINGREQ on every line each 500 ms; returns how many lines were parted with.
fn keep_alive(lines: &mut [Line], stop: &AtomicBool) -> usize {
    let mut gone = vec![false; lines.len()];
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        for (line, gone) in lines.iter_mut().zip(&mut gone) {
            *gone |= line.ended() || line.send(&[0xc0, 0]).is_err();
        }
        std::thread::sleep(Duration::from_millis(500).saturating_sub(start.elapsed()));
    }
    gone.into_iter().filter(|&gone| gone).count()
}

/// Publishes at QoS 1 with a window of 32 and reads everything back.
fn load(broker: &Broker, stop: &AtomicBool) -> (usize, Duration) {
    let topic = unique("load");
    let mut sub = Client::connect(broker, V5, &unique("s"));
    sub.granted(&topic, 1);
    let mut c = Client::connect(broker, V311, &unique("p"));
    let (mut sent, mut worst) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let ids: Vec<_> = (sent..sent + 32)
            .map(|n| c.send_publish(&Publish::new(&topic, 1, n.to_string())))
            .collect();
        for n in sent..sent + 32 {
            sub.expect(&n.to_string());
        }
        ids.into_iter().for_each(|id| drop(c.ack(AckKind::PubAck, id)));
        sent += 32;
        worst = worst.max(start.elapsed());
    }
    sub.expect_nothing();
    (sent, worst)
}

#[test]
fn after_sigstop_and_sigcont_nobody_who_kept_alive_is_parted_with() {
    let _alone = machine();
    let broker = Broker::start(&["sys.interval=1s"]);
    let stop = AtomicBool::new(false);
    let mut lines = Vec::with_capacity(CLIENTS);
    while lines.len() < CLIENTS {
        // [MQTT-3.1.2-22]: parted with after 3 s of silence.
        let connect = Connect::new(V311, unique("alive")).keep_alive(2);
        lines.push(Line::open(broker.address(), &connect, patience()).expect("accepted"));
        // Nor may the first be silent until the last is there.
        if lines.len() % 250 == 0 {
            lines.iter_mut().for_each(|line| line.send(&[0xc0, 0]).expect("it stands"));
        }
    }
    let watch = unique("gone");
    let mut witness = Client::subscriber(&broker, V5, &unique("w"), &watch, 1);
    let will = Publish::new(&watch, 1, "gone");
    let (gone, loads) = std::thread::scope(|scope| {
        let stop = &stop;
        let broker = &broker;
        let alive = scope.spawn(|| keep_alive(&mut lines, stop));
        let loads: Vec<_> = (0..4).map(|_| scope.spawn(move || load(broker, stop))).collect();
        std::thread::sleep(Duration::from_secs(1));
        // One that falls silent just before: it is to go, a little later than otherwise.
        let silent = Connect::new(V311, unique("silent")).keep_alive(2).will(will).open(broker);
        broker.signal("-STOP");
        std::thread::sleep(lasting(5, 60));
        broker.signal("-CONT");
        let resumed = Instant::now();
        assert_eq!(witness.message().text(), "gone");
        figure("SIGSTOP", &format!("a silent client goes {:?} after SIGCONT", resumed.elapsed()));
        drop(silent);
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        let loads: Vec<_> =
            loads.into_iter().map(|load| load.join().expect("nothing was lost")).collect();
        (alive.join().expect("it does not panic"), loads)
    });
    figure("SIGSTOP", &format!("messages and worst round trip of each pair: {loads:?}"));
    assert_eq!(gone, 0, "of {CLIENTS} clients that sent PINGREQ all the time");
}
