//! RingMQ: a thread-per-core, shared-nothing MQTT broker for Linux on io_uring. Read this first.
//!
//! # Planes
//! - **Data**: bytes of clients. [`ring`] moves them between sockets and the [`shard`], a pure
//!   state machine that owns the sessions; [`mesh`] carries mail between shards.
//! - **Control**: `broker` starts the cores, opens listeners, obeys signals, reloads, drains.
//!   `admin` answers `/metrics`, `/healthz` and `/readyz` on a thread of its own: it asks each
//!   shard for a copy of its figures, and never visits a client.
//!   Helper threads hash passwords and ask services for the shards, which do not wait for them.
//! - **Pure core**: everything but `ring`, `broker`, `admin` and `main`. It compiles without the
//!   feature `runtime`, takes time and input as arguments, and knows no kernel: simulation, fuzzing
//!   and Miri run it as it is.
//!
//! # The way of a message
//! A multishot receive fills a shared buffer; `ring` reports it; [`shard::Shard::received`] frames
//! and decodes it in place ([`packet`]); the topic is hashed once ([`topic::TopicHash`]); the
//! interest table names the shards that care; local subscribers get the packet copied into their
//! output, others through a [`message::Batch`] in a mailbox; at the end of the step each connection
//! with output gets one send.
//!
//! # Where to look
//! | question | files, below `src/` |
//! |---|---|
//! | How does a client get in? | `shard/entry.rs` (accepted, CONNECT read), `shard/hand_over.rs` and `ring/hand_over.rs` (its socket goes to its home), `shard/arrivals.rs`, `shard/connect.rs` (takeover, resume, CONNACK), `shard/refuse.rs` (who is turned away) |
//! | What happens to a PUBLISH? | `shard/receive.rs`, `shard/publish.rs`, `shard/route.rs`, `shard/deliver.rs`, `shard/encode.rs`, `shard/output.rs`; on another shard `shard/mail.rs` in place of the first two; over several steps `shard/fanout.rs` |
//! | Who subscribes to what? | `shard/subscribe.rs`, `topic/index.rs` (one shard's subscribers), `mesh/interest.rs` (which shards have any) |
//! | Share groups? | `shard/share.rs` and `shard/groups.rs` (the group picks a member), `shard/membership.rs` (the member's side), `shard/returns.rs` (what comes back) |
//! | Retained messages? | `topic/retained.rs` (kept), `shard/retain.rs` (replayed) |
//! | Windows, queues, repetition? | `session/window.rs`, `session/inbound.rs`, `session/pending.rs`; `shard/pump.rs`, `shard/redeliver.rs` |
//! | How does a connection or a session end? | `shard/close.rs` (causes, last packets), `shard/endings.rs` (ends that are queued), `shard/offline.rs` (a session without a connection, its expiry) |
//! | Where is a will sent? | `shard/wills.rs` (made, delayed, queued, routed) |
//! | Where is backpressure? | `shard/park.rs` (connections that are held), `shard/pace.rs` (which publisher waits for which subscriber), `shard/held.rs` (what is read meanwhile), `mesh/mailbox.rs` (a full mailbox) |
//! | Keep Alive, expiry, every other timer? | `shard/timers.rs` on the wheel of `time.rs`; `shard/input_progress.rs` (whom a timer may find silent), `shard/upkeep.rs` (once a second) |
//! | A listener or a socket option? | `broker/listen.rs` and `broker/opening.rs` (opened, by one at a time), `ring/listen.rs` (accepted), `ring/socket.rs` (read, written, closed) |
//! | What is below MQTT on a connection? | `transport/mod.rs` (layers: PROXY header, TLS, WebSocket), `transport/tls/mod.rs` (TLS: rustls for the handshake, records of our own), `shard/layered.rs` (where bytes pass through them), `shard/handshakes.rs` (whose handshake has its turn), `broker/secure.rs` (certificates read, reloaded, watched) |
//! | Who is a client, and who says so? | `access/chain.rs` (methods), `shard/admission.rs` (a CONNECT that waits), `shard/exchange.rs` (enhanced authentication), `broker/questions.rs` and `broker/services.rs` (hashing and HTTP, on threads of their own) |
//! | Who may do what? | `access/mod.rs` (one `Decision`), `access/own.rs` (the broker's own rules), `access/rule.rs` (configured ones), `shard/permission.rs` (asked at PUBLISH, SUBSCRIBE and will; remembered; applied after a reload) |
//! | What survives a restart? | `shard/changes.rs` (each kind of change, as a record), `shard/storing.rs` (who waits until it is durable), `shard/restore.rs`; `storage/log.rs` (batches, segments, failures, reclaim), `storage/recovery.rs`, `storage/writer.rs` (the thread that owns the files) |
//! | How does a core sleep and wake? | `ring/idle.rs`, `ring/flag.rs`, `ring/driver.rs` |
//! | A bound, or what work costs? | `limits.rs`; `shard/meter.rs` (charged, and timed), `shard/step.rs` (the order of a step) |
//! | A counter, a metric, `$SYS`? | `telemetry/counters.rs` (declared), `telemetry/prometheus.rs`, `telemetry/sys.rs` and `shard/sys.rs`; pages in `admin/pages.rs` |
//! | A configuration key? | `config/mod.rs`, then `shard/settings.rs`; `shard/announced.rs` (what clients were told before a reload) |
//! | Start, signals, reload, drain? | `broker/mod.rs`, `broker/control.rs`, `broker/signals.rs`; a shard's part in `shard/stop.rs` |
//! | What a host lacks? | `doctor/mod.rs` |
//!
//! What proves what: `tests/README.md`.
//!
//! # Invariants
//! 1. `hash(ClientId) % shards`, keyed by a secret of this start, owns a session for ever
//!    ([`shard::home_of`]); what is said to it is said on that shard only. The entry shard reads
//!    CONNECT and passes the socket on.
//! 2. A PUBLISH is acknowledged after every interested shard's mailbox has accepted it; when one is
//!    full the publisher is parked, not its shard. What was acknowledged to one client is ordered
//!    before whatever any client sends after that, on every shard: in each step the mail that was
//!    there comes before the packets that the kernel had reported by then ([`shard::step`]), and
//!    mail of several shards is taken in by the time it was put there ([`mesh::reading`]).
//! 3. A SUBACK is sent after every shard would route to the subscription.
//! 4. Data mail may cause mail of both classes, control mail only control mail, and control mail is
//!    always taken in: full mailboxes cannot wait for each other in a circle.
//! 5. Every queue has a bound and a policy, and whatever is dropped is counted by reason
//!    ([`telemetry::Counters`]). All that clients make the broker hold has one bound besides
//!    ([`shard::memory`]): what is only stored is refused first, what is in flight never dropped.
//! 6. A step takes some milliseconds, whatever was asked for: about 2 for clients and as much for
//!    mail, and the kernel's share, which is not repeated once 3 are over. What work costs (nodes
//!    and stored messages visited, matches, filters, bytes, sends) is counted in units of about
//!    100 ns ([`limits::cost`]) against the step's budget ([`limits::Budget`]), and a clock is
//!    looked at besides. What costs more goes on in later steps from a cursor: a message for many
//!    subscribers (`shard/fanout.rs`), a request of many filters and the end of a session with many
//!    subscriptions (`shard/task.rs`), replays, mail, returns to share groups, a drain. Each client
//!    has its turn, and each of these kinds a share of every step. Who has sent nothing lately has
//!    the next turn (`shard/park.rs`): so a modest client waits for a step, not for all busy ones.
//! 7. The broker does not end itself because something is slow: late is reported
//!    (`broker/watch.rs`).
//! 8. With a store, nothing is said to a client before what it says is durable, here and on the
//!    shards that its messages went to (`shard/storing.rs`). No shard touches a file: each has a
//!    thread beside it that does (`storage/writer.rs`), and two SPSC rings to it.
//!
//! # What shards share
//! Everything else has one owner.
//! - [`mesh::interest::Interest`]: which shards want a topic, visible at once, without a copy per
//!   core. A map that is read without locks, while writers of the same 64th of it take turns behind
//!   a mutex (`mesh/map.rs`, with the only `unsafe` outside `ring` but one call to the allocator),
//!   48 atomic shapes, and per shard a ledger behind a mutex that only that shard takes, while
//!   subscribing.
//! - Payloads of large messages ([`message::Message`], reference-counted): not copied per shard.
//!   And the names of share groups ([`session::ShareName`]), which go with their messages.
//! - [`mesh::mailbox`]: SPSC rings, and two counters per pair of shards that the receiver writes and
//!   the sender reads: what the messages sent so far have cost (`shard/ahead.rs`). `ring::idle` and
//!   `ring::port`: atomics to wake a core and to find a ring with room for a socket.
//! - [`mesh::quota`]: bounds of the whole broker (connections, retained messages, rates, memory);
//!   never on the publish path, but for one number that a step looks at once and changes after as
//!   much work as a client's turn ([`shard::memory`]).
//! - What of this is ours to get right (a sleeping core's flag, mailboxes, ports, shapes, the map)
//!   takes its atomics from [`atomic`]; `tests/loom` runs it in every order.
//! - `broker::log_writer`: lines on their way to the log, behind a mutex that is held for a copy
//!   and never while writing: a shard that logs does not wait for who reads the log.
//! - `transport::tls`: the keys for session tickets, behind a lock per listener that a handshake
//!   takes for less than a microsecond: each shard takes the tickets of the others. And a place of
//!   each thread where rustls leaves the traffic secrets of the handshake that is under way.
//! - [`mesh::Shared`], listener_states, settings and the rules of access behind `Arc`: read only.
//! - [`mutant`]: which deliberate mistake is made; only under the feature `mutants`, for the
//!   simulation, where every thread makes the same one.
//!
//! # Where measurement or need changed the plan
//! - **Spinning before parking** is done only while it pays: with work every 100 µs a spin of 20 µs
//!   never meets any and costs a fifth of the core.
//! - **Between spin and glommio's park** a core dozes in its own ring's wait (2 to 20 ms):
//!   through glommio each wake-up costs several system calls more.
//! - **Transparent huge pages are off**: the allocator's size classes were rounded up to 2 MiB
//!   (15,000 idle clients: 600 bytes each with, 391 without).
//! - **The interest table's map is ours**: it takes 25 bytes per filter where the maps of scc and
//!   papaya take 38 and 35, for some 90 instructions more per PUBLISH than scc's (`mesh/map.rs`).
//! - **Ends of connections come in shares** of 64 per step: when 100,000 clients dropped at once,
//!   others waited more than a second behind them, now some milliseconds.
//! - **A fan-out copies the packet per subscriber** and does not share one segment: it is delivered
//!   in slices, so the buffers of those served go to the next ones (`shard/output.rs`): one message
//!   to 8,000 subscribers took 2 MiB. A shared segment would cost two allocations each.
//! - **`mqtt.max_unhashed_subscriptions`** (512) bounds what one client can make a publish cost,
//!   not `max_subscriptions` (100,000): filters found by hash cost a publish nothing more.
//! - **`admin.bind` is off unless set**: it has no authentication yet.
//! - **Two rings per ordered pair of shards**, data and control: see invariant 4.
//!
//! # Absent on purpose
//! No task, thread, timer, buffer or lock per client. No broadcast per publish. No retry towards
//! MQTT 5 clients (the specification forbids it). In TLS no CBC suites, RSA key exchange,
//! pre-shared keys, early data or versions below 1.2, and not the kernel's TLS. Bridges and
//! clustering are later capabilities; their settings are refused, not ignored.
#![cfg_attr(not(test), warn(clippy::disallowed_types, clippy::disallowed_methods))]
pub mod access;
#[cfg(feature = "runtime")]
#[allow(clippy::disallowed_methods, reason = "a thread of its own, which has clients of its own")]
pub mod admin;
pub mod atomic;
#[cfg(feature = "runtime")]
#[allow(
    clippy::disallowed_methods,
    reason = "starts the threads and reads the clock for the shards"
)]
pub mod broker;
pub mod config;
#[allow(clippy::disallowed_methods, reason = "times what it judges; no shard runs beside it")]
pub mod doctor;
pub mod ids;
pub mod keyed;
pub mod limits;
pub mod mesh;
pub mod message;
pub mod mutant;
pub mod packet;
#[cfg(feature = "runtime")]
#[allow(clippy::disallowed_methods, reason = "waits for the kernel, with deadlines")]
pub mod ring;
pub mod session;
pub mod shard;
pub mod slab;
pub mod storage;
pub mod telemetry;
pub mod time;
pub mod topic;
pub mod transport;
