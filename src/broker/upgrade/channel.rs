//! The socket pair between the two processes of an upgrade: frames, and descriptors beside them.

use super::requests::is_parent;
use crate::upgrade::UpgradeFrame;
use crate::upgrade::code::make_room;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use zeroize::Zeroize;

/// Descriptors in one message at most, as the kernel has it.
const FILES: usize = 253;
/// Bytes that are read at a time.
const CHUNK: usize = 64 * 1024;
/// Longest wait for the other process to read what is said.
const WRITE: Duration = Duration::from_secs(10);

/// One end. What has gone through it has secrets of TLS in it, and is wiped behind.
pub(super) struct Channel {
    socket: UnixStream,
    received: Vec<u8>,
    /// Of those, so many were taken.
    used: usize,
    /// Descriptors that have come, in their order.
    files: VecDeque<OwnedFd>,
    ended: bool,
}

/// What was heard.
pub(super) enum ChannelInput {
    Frame(UpgradeFrame),
    /// Nothing in time.
    Late,
    /// The other end is closed, and all that was said there was heard.
    Ended,
    /// The bytes are no frame, or the kernel failed.
    Failed(String),
}

impl Channel {
    pub(super) fn new(socket: UnixStream) -> std::io::Result<Channel> {
        socket.set_write_timeout(Some(WRITE))?;
        let (received, files) = (Vec::new(), VecDeque::new());
        Ok(Channel { socket, received, used: 0, files, ended: false })
    }

    /// True when the other end was made by this process's parent, which lives.
    pub(super) fn is_of_parent(&self) -> bool {
        is_parent(&self.socket)
    }

    /// Says it.
    pub(super) fn say(&mut self, frame: &UpgradeFrame) -> Result<(), String> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).map_err(|_| "a frame is too long".to_owned())?;
        let said = self.write(&bytes);
        bytes.zeroize();
        said
    }

    /// Frames that are written already.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.socket.write_all(bytes).map_err(|error| format!("the other process: {error}"))
    }

    /// Says it, with descriptors beside it; at most 253.
    pub(super) fn say_with(
        &mut self,
        frame: &UpgradeFrame,
        files: &[OwnedFd],
    ) -> Result<(), String> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).map_err(|_| "a frame is too long".to_owned())?;
        let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
        let mut beside = SendAncillaryBuffer::new(&mut room);
        if !beside.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err("too many descriptors at once".to_owned());
        }
        let sent = loop {
            let slices = [IoSlice::new(&bytes)];
            match sendmsg(&self.socket, &slices, &mut beside, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                sent => break sent.map_err(|error| format!("the other process: {error}"))?,
            }
        };
        // They go with the first byte.
        self.write(bytes.get(sent..).unwrap_or_default())
    }

    /// The next frame.
    pub(super) fn hear(&mut self, patience: Duration) -> ChannelInput {
        let until = Instant::now() + patience;
        loop {
            match UpgradeFrame::read(self.received.get(self.used..).unwrap_or_default()) {
                Err(_) => return ChannelInput::Failed("what it says is not understood".to_owned()),
                Ok(Some((frame, length))) => {
                    self.used += length;
                    if self.used > CHUNK {
                        self.drop_used();
                    }
                    return ChannelInput::Frame(frame);
                }
                Ok(None) if self.ended => return ChannelInput::Ended,
                Ok(None) => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return ChannelInput::Late;
            }
            if let Err(failed) = self.receive(left) {
                return failed;
            }
        }
    }

    fn receive(&mut self, patience: Duration) -> Result<(), ChannelInput> {
        let failed = |error: &dyn std::fmt::Display| ChannelInput::Failed(error.to_string());
        self.socket.set_read_timeout(Some(patience)).map_err(|error| failed(&error))?;
        let mut chunk = [0; CHUNK];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
        let mut beside = RecvAncillaryBuffer::new(&mut room);
        let slices = &mut [IoSliceMut::new(&mut chunk)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let (count, cut) = match recvmsg(&self.socket, slices, &mut beside, flags) {
            Ok(got) => (got.bytes, got.flags.contains(ReturnFlags::CTRUNC)),
            Err(Errno::INTR) => return Ok(()),
            Err(Errno::AGAIN) => return Err(ChannelInput::Late),
            // Its end was closed with something unread.
            Err(Errno::CONNRESET) => (0, false),
            Err(error) => return Err(failed(&error)),
        };
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.files.extend(files);
            }
        }
        if cut {
            let what = "there are too few descriptors: raise the nofile limit";
            return Err(failed(&what));
        }
        self.ended |= count == 0;
        make_room(&mut self.received, count);
        let got = chunk.get_mut(..count).unwrap_or_default();
        self.received.extend_from_slice(got);
        got.zeroize();
        Ok(())
    }

    /// Frames that were taken make room. The rest moves to the front, and what lies behind it then
    /// is wiped.
    fn drop_used(&mut self) {
        let rest = self.received.len() - self.used;
        self.received.copy_within(self.used.., 0);
        self.received.get_mut(rest..).unwrap_or_default().zeroize();
        self.received.truncate(rest);
        self.used = 0;
    }

    /// The next of the descriptors that have come.
    pub(super) fn take_file(&mut self) -> Option<OwnedFd> {
        self.files.pop_front()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.received.zeroize();
    }
}
