//! Target `frames`: what the two processes of an upgrade say to each other. Any bytes are a frame,
//! the beginning of one or refused; what is read is written the same, but for what has two ways to
//! be written, and then it is read the same again.

use ringmq::transport::Layers;
use ringmq::upgrade::UpgradeFrame;

fn written(frame: &UpgradeFrame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).expect("it was read, so it is short enough");
    bytes
}

pub fn run(data: &[u8]) {
    let Ok(Some((frame, length))) = UpgradeFrame::read(data) else { return };
    assert!(length <= data.len());
    let once = written(&frame);
    let (again, same) = UpgradeFrame::read(&once).expect("a frame").expect("a whole one");
    assert_eq!(same, once.len());
    assert_eq!(written(&again), once);
    let UpgradeFrame::Client(client) = frame else { return };
    let layers = client.connection.and_then(|connection| connection.layers);
    let Some(layers) = layers.and_then(|layers| Layers::of_moved(&layers)) else { return };
    let moved = layers.moved().expect("it came from there");
    let again = Layers::of_moved(&moved).expect("it is understood");
    assert!(again.moved().is_some_and(|again| again == moved));
}
