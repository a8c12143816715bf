//! The thread of an admin server: how it is started, and what others need if it panics.

use super::guard::Guard;
use super::{AdminSources, BrokerState, api, serve};
use crate::contained::{self, ContainedThread, PanicFlag};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::LocalSet;

/// The thread of a server, and what others need if it panics.
pub(super) struct AdminThread {
    handle: JoinHandle<()>,
    panicked: PanicFlag,
    pub(super) sockets: AdminSockets,
}

impl AdminThread {
    /// True when it has ended or panicked.
    pub(super) fn is_dead(&self) -> bool {
        self.panicked.is_raised() || self.handle.is_finished()
    }
}

/// The sockets of a thread's connections, second descriptors of them. Nothing that can panic is
/// done under the lock.
#[derive(Clone, Default)]
pub(super) struct AdminSockets(Arc<Mutex<Vec<Weak<OwnedFd>>>>);

impl AdminSockets {
    /// Notes a connection, which ends with what is returned. `None` when descriptors are short.
    pub(super) fn note(&self, stream: &TcpStream) -> Option<Arc<OwnedFd>> {
        let socket = Arc::new(stream.as_fd().try_clone_to_owned().ok()?);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(&socket));
        Some(socket)
    }

    /// Closes the connections of a thread that cannot do so itself.
    pub(super) fn close(&self) {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for socket in all.iter().filter_map(Weak::upgrade) {
            let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Both);
        }
    }
}

/// What a server's thread is started with.
#[derive(Clone, Copy)]
pub(super) struct AdminParts<'a> {
    pub(super) guard: &'a Arc<Guard>,
    pub(super) sources: &'a Arc<AdminSources>,
    pub(super) memory: &'a api::AdminMemory,
}

impl AdminParts<'_> {
    /// Starts a thread that serves at this socket.
    pub(super) fn launch(
        self,
        name: &str,
        listener: &TcpListener,
        state: watch::Receiver<BrokerState>,
    ) -> io::Result<AdminThread> {
        let (guard, sources) = (Arc::clone(self.guard), Arc::clone(self.sources));
        let (listener, memory) = (listener.try_clone()?, self.memory.clone());
        let event_loop =
            tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (panicked, sockets) = (PanicFlag::default(), AdminSockets::default());
        let (flag, of_thread) = (panicked.clone(), sockets.clone());
        let serving = move || {
            contained::contain(ContainedThread::Admin, flag);
            let parts = AdminParts { guard: &guard, sources: &sources, memory: &memory };
            LocalSet::new().block_on(&event_loop, serve(listener, of_thread, parts, state));
        };
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(serving)?;
        Ok(AdminThread { handle, panicked, sockets })
    }
}
