//! The store of lines, with readers that do not read.

use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// A reader that takes a write only when it is let.
struct Reader {
    lets: Receiver<io::Result<()>>,
    written: SyncSender<Vec<u8>>,
}

impl Write for Reader {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lets.recv().unwrap_or(Ok(()))?;
        self.written.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn who_logs_does_not_wait_for_a_reader_that_does_not_read() {
    let (lets, on_let) = channel();
    let (written, chunks) = sync_channel(100);
    let (told, losses) = channel();
    let reader = Reader { lets: on_let, written };
    let mut log = LogWriter::start(reader, move |lost| told.send(lost).unwrap()).unwrap();
    let line = [&[b'x'; 1023][..], b"\n"].concat();
    let began = Instant::now();
    for _ in 0..10_000 {
        log.write_all(&line).unwrap();
    }
    // The thread may have taken the first line, or as much as the store holds.
    let lost = log.lost_in_all();
    assert!((7_900..=9_000).contains(&lost), "{lost} of 10,000 lines of 1 KiB");
    assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
    assert!(!log.flush(Duration::from_millis(10)), "nobody has read it");
    // The last words of a process are kept whatever is lost.
    log.keep_everything();
    log.write_all(b"fatal\n").unwrap();
    drop(lets);
    assert!(log.flush(LONG));
    let text: Vec<u8> = chunks.try_iter().flatten().collect();
    let lines = text.iter().filter(|&&byte| byte == b'\n').count() as u64;
    assert_eq!(lines + lost, 10_001, "each line is written or counted");
    assert!(text.ends_with(b"fatal\n"));
    assert_eq!(losses.try_iter().sum::<u64>(), lost, "and told");
}

#[test]
fn lines_that_cannot_be_written_are_counted_and_told_when_one_can() {
    let (lets, on_let) = channel();
    let (written, chunks) = sync_channel(100);
    let (told, losses) = channel();
    let reader = Reader { lets: on_let, written };
    let mut log = LogWriter::start(reader, move |lost| told.send(lost).unwrap()).unwrap();
    for _ in 0..3 {
        lets.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        log.write_all(b"a\n").unwrap();
        assert!(log.flush(LONG));
    }
    assert_eq!((log.lost_in_all(), losses.try_recv().ok()), (3, None));
    for _ in 0..3 {
        lets.send(Err(io::ErrorKind::WouldBlock.into())).unwrap();
        lets.send(Err(io::ErrorKind::Interrupted.into())).unwrap();
    }
    lets.send(Ok(())).unwrap();
    log.write_all(b"b\n").unwrap();
    assert!(log.flush(LONG));
    assert_eq!(chunks.try_iter().collect::<Vec<_>>(), [b"b\n"]);
    assert_eq!((log.lost_in_all(), losses.try_recv().ok()), (3, Some(3)));
}

#[test]
fn memory_of_a_flood_is_given_back() {
    let mut log = LogWriter::start(io::sink(), |_| {}).unwrap();
    for _ in 0..5 {
        log.write_all(&[b'x'; ROOM]).unwrap();
        assert!(log.flush(LONG));
    }
    // Both buffers take turns, and each is cut when it was written.
    let kept = log.0.lock().lines.capacity();
    assert!(kept <= KEPT, "{kept} bytes");
}
