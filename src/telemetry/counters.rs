//! The table of figures and the struct made from it. Each shard owns one [`Counters`]; nothing here
//! is shared.

use super::descriptor::{Descriptor, MetricKind};

macro_rules! counters {
    (@labels) => { &[] };
    (@labels $($label:ident $value:literal)+) => { &[$((stringify!($label), $value),)+] };
    ($(
        $name:literal $kind:ident $unit:literal $help:literal {
            $($field:ident $($label:ident = $value:literal),*;)+
        }
    )*) => {
        /// The figures of one shard, or the sum over shards.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct Counters {
            $($(
                #[doc = concat!(
                    $help, $(" (", stringify!($label), ": ", $value, ")",)* " Unit: ", $unit, "."
                )]
                pub $field: u64,
            )+)*
        }

        impl Counters {
            /// Every figure's name and meaning, in the order of [`Counters::iter`]; figures of one
            /// name are neighbours.
            pub const DESCRIPTORS: &'static [Descriptor] = &[$($(
                Descriptor {
                    field: stringify!($field),
                    name: $name,
                    labels: counters!(@labels $($label $value)*),
                    kind: MetricKind::$kind,
                    unit: $unit,
                    help: $help,
                },
            )+)*];

            /// Adds another shard's figures. Gauges add up too: each shard counts only what it
            /// owns.
            pub fn add(&mut self, other: &Counters) {
                $($( self.$field = self.$field.wrapping_add(other.$field); )+)*
            }

            /// Adds to the figure of that field; false when there is none.
            pub fn add_to(&mut self, field: &str, more: u64) -> bool {
                match field {
                    $($( stringify!($field) => self.$field = self.$field.wrapping_add(more), )+)*
                    _ => return false,
                }
                true
            }

            /// Every figure, in the order of [`Counters::DESCRIPTORS`].
            pub fn values(&self) -> [u64; Self::DESCRIPTORS.len()] {
                [$($(self.$field,)+)*]
            }

            /// Every figure with its descriptor.
            pub fn iter(&self) -> impl Iterator<Item = (&'static Descriptor, u64)> {
                Self::DESCRIPTORS.iter().zip(self.values())
            }
        }
    };
}

counters! {
    "ringmq_connections_accepted_total" Counter "connections"
        "Connections accepted by the listeners." { connections_accepted; }
    "ringmq_connections" Gauge "connections"
        "Network connections open now." { connections_open; }
    "ringmq_connections_refused_total" Counter "connections"
        "Connections turned away before they had a session, by reason." {
        refused_connect reason = "connect";
        refused_listener_limit reason = "listener_limit";
        refused_broker_limit reason = "broker_limit";
        refused_rate reason = "connect_rate";
        refused_busy reason = "busy";
        refused_too_large reason = "too_large";
        refused_draining reason = "draining";
        refused_listener_closed reason = "listener_closed";
        refused_memory reason = "memory";
        upgrades_refused reason = "upgrade";
        headers_shed reason = "unfinished_header";
        refused_proxy reason = "proxy";
        refused_proving reason = "authentication_busy";
        refused_proof_late reason = "authentication_late";
        refused_overload reason = "overload";
        refused_broker_rate reason = "broker_connect_rate";
        refused_address_limit reason = "address_limit";
        refused_address_rate reason = "address_connect_rate";
        refused_user_limit reason = "user_limit";
        refused_user_rate reason = "user_connect_rate";
        refused_banned reason = "banned";
        refused_claimed reason = "claimed_elsewhere";
        refused_leaving reason = "leaving";
    }
    "ringmq_authentications_total" Counter "clients"
        "What the methods of access.authentication said; unknown: the next one was asked; \
         remembered: the client had shown the same lately." {
        password_accepted method = "password_file", result = "accepted";
        password_refused method = "password_file", result = "refused";
        password_unknown method = "password_file", result = "unknown";
        password_failed method = "password_file", result = "failed";
        password_remembered method = "password_file", result = "remembered";
        jwt_accepted method = "jwt", result = "accepted";
        jwt_refused method = "jwt", result = "refused";
        jwt_unknown method = "jwt", result = "unknown";
        jwt_failed method = "jwt", result = "failed";
        http_accepted method = "http", result = "accepted";
        http_refused method = "http", result = "refused";
        http_unknown method = "http", result = "unknown";
        http_failed method = "http", result = "failed";
        http_remembered method = "http", result = "remembered";
        scram_accepted method = "scram", result = "accepted";
        scram_refused method = "scram", result = "refused";
        scram_unknown method = "scram", result = "unknown";
        scram_failed method = "scram", result = "failed";
        certificate_accepted method = "certificate", result = "accepted";
        certificate_refused method = "certificate", result = "refused";
        certificate_unknown method = "certificate", result = "unknown";
        certificate_failed method = "certificate", result = "failed";
        redis_accepted method = "redis", result = "accepted";
        redis_refused method = "redis", result = "refused";
        redis_unknown method = "redis", result = "unknown";
        redis_failed method = "redis", result = "failed";
        redis_remembered method = "redis", result = "remembered";
        postgres_accepted method = "postgres", result = "accepted";
        postgres_refused method = "postgres", result = "refused";
        postgres_unknown method = "postgres", result = "unknown";
        postgres_failed method = "postgres", result = "failed";
        postgres_remembered method = "postgres", result = "remembered";
    }
    "ringmq_authentications_waiting" Gauge "connections"
        "Clients whose password or token is being looked at." { proving; }
    "ringmq_authentications_expired_total" Counter "connections"
        "Connections ended because what their client was let in with was over."
        { admissions_expired; }
    "ringmq_users_revoked_total" Counter "connections"
        "Connections ended because a reload changed their user's password, or took the user away."
        { users_revoked; }
    "ringmq_key_set_fetches_total" Counter "fetches"
        "Key sets of access.authentication's jwt that were fetched, and attempts that failed." {
        key_sets_fetched result = "fetched";
        key_sets_failed result = "failed";
    }
    "ringmq_authorizations_total" Counter "decisions"
        "Decisions about topics, by who made them: the client's own rules, those of \
         access.authorization, one of its services, or nobody (no_match); memory: it was known." {
        allowed_by_client source = "client", result = "allowed";
        denied_by_client source = "client", result = "denied";
        allowed_by_rules source = "rules", result = "allowed";
        denied_by_rules source = "rules", result = "denied";
        allowed_by_http source = "http", result = "allowed";
        denied_by_http source = "http", result = "denied";
        allowed_by_redis source = "redis", result = "allowed";
        denied_by_redis source = "redis", result = "denied";
        allowed_by_postgres source = "postgres", result = "allowed";
        denied_by_postgres source = "postgres", result = "denied";
        allowed_by_nobody source = "nobody", result = "allowed";
        denied_by_nobody source = "nobody", result = "denied";
        decisions_remembered source = "memory", result = "remembered";
    }
    "ringmq_authorization_answers_total" Counter "decisions"
        "What services said of what clients wanted to do; unknown: the next source was asked." {
        said_by_http_allowed source = "http", result = "allowed";
        said_by_http_denied source = "http", result = "denied";
        said_by_http_unknown source = "http", result = "unknown";
        said_by_http_failed source = "http", result = "failed";
        said_by_redis_allowed source = "redis", result = "allowed";
        said_by_redis_denied source = "redis", result = "denied";
        said_by_redis_unknown source = "redis", result = "unknown";
        said_by_redis_failed source = "redis", result = "failed";
        said_by_postgres_allowed source = "postgres", result = "allowed";
        said_by_postgres_denied source = "postgres", result = "denied";
        said_by_postgres_unknown source = "postgres", result = "unknown";
        said_by_postgres_failed source = "postgres", result = "failed";
    }
    "ringmq_authorizations_waiting" Gauge "connections"
        "Clients whose packets wait until a service has said whether they may."
        { permissions_waiting; }
    "ringmq_subscriptions_denied_total" Counter "subscriptions"
        "Topic filters that the rules did not allow, by when: at SUBSCRIBE, or after a reload." {
        subscriptions_denied when = "subscribe";
        subscriptions_revoked when = "reload";
    }
    "ringmq_subscriptions_over_limit_total" Counter "subscriptions"
        "Subscriptions refused because the client has as many as it may (max_subscriptions)."
        { subscriptions_over_limit; }
    "ringmq_tls_handshakes_total" Counter "handshakes"
        "TLS handshakes that ended well, by version and whether an earlier session went on." {
        tls12_full kind = "1.2_full";
        tls12_resumed kind = "1.2_resumed";
        tls13_full kind = "1.3_full";
        tls13_resumed kind = "1.3_resumed";
    }
    "ringmq_tls_handshakes_failed_total" Counter "handshakes"
        "TLS handshakes that failed, by reason." {
        tls_failed_not_tls reason = "not_tls";
        tls_failed_nothing_in_common reason = "nothing_in_common";
        tls_failed_no_certificate reason = "no_certificate";
        tls_failed_expired reason = "certificate_expired";
        tls_failed_unknown_authority reason = "unknown_authority";
        tls_failed_revoked reason = "certificate_revoked";
        tls_failed_bad_certificate reason = "bad_certificate";
        tls_failed_client_alert reason = "client_alert";
        tls_failed_protocol reason = "protocol";
        tls_failed_timed_out reason = "timed_out";
        tls_failed_shed reason = "shed";
        tls_failed_left reason = "left";
        tls_failed_internal reason = "internal";
    }
    "ringmq_unfinished_headers" Gauge "connections"
        "Connections whose PROXY header or HTTP request has come in part." { headers_unfinished; }
    "ringmq_tls_handshakes_under_way" Gauge "handshakes"
        "TLS handshakes that have begun and are not over." { tls_under_way; }
    "ringmq_tls_faults_total" Counter "connections"
        "Connections ended after their handshake because the client broke a rule of TLS."
        { tls_faults; }
    "ringmq_tls_certificates_ended_total" Counter "connections"
        "Connections ended because the client's certificate was revoked or has expired since."
        { tls_certificates_ended; }
    "ringmq_websocket_faults_total" Counter "connections"
        "Connections ended because the client broke a rule of WebSocket." { websocket_faults; }
    "ringmq_refused_unanswered_total" Counter "connections"
        "Refused connections that were closed without CONNACK because many others waited for one."
        { refused_unanswered; }
    "ringmq_handovers_waiting" Gauge "connections"
        "Clients on their way to their home shard." { handovers_waiting; }
    "ringmq_connections_closed_total" Counter "connections"
        "Connections closed, whoever closed them." { connections_closed; }
    "ringmq_connects_total" Counter "packets"
        "CONNECT packets received, refused ones included." { connects; }
    "ringmq_accept_errors_total" Counter "errors"
        "Accepts that failed." { accept_errors; }
    "ringmq_connect_timeouts_total" Counter "connections"
        "Connections closed because no CONNECT came in time." { connect_timeouts; }
    "ringmq_send_timeouts_total" Counter "connections"
        "Connections closed because the client read nothing for too long (mqtt.send_timeout)."
        { send_timeouts; }
    "ringmq_keepalive_timeouts_total" Counter "connections"
        "Connections closed because the client was silent for too long." { keepalive_timeouts; }
    "ringmq_takeovers_total" Counter "connections"
        "Connections closed because the ClientId connected again." { takeovers; }
    "ringmq_sessions" Gauge "sessions"
        "Sessions, with and without a connection." { sessions; }
    "ringmq_sessions_offline" Gauge "sessions"
        "Sessions without a connection, kept for their client." { sessions_persistent; }
    "ringmq_sessions_expired_total" Counter "sessions"
        "Sessions that ended because their expiry interval passed." { sessions_expired; }
    "ringmq_operator_actions_total" Counter "actions"
        "What operators had done: clients disconnected, sessions ended, messages published." {
        kicked action = "disconnect";
        sessions_dropped action = "end_session";
        messages_of_operators action = "publish";
    }
    "ringmq_messages_from_bridges_total" Counter "messages"
        "Messages that bridges have brought." { messages_of_bridges; }
    "ringmq_subscriptions" Gauge "subscriptions"
        "Subscriptions, shared ones included." { subscriptions; }
    "ringmq_shared_subscriptions" Gauge "subscriptions"
        "Subscriptions in share groups." { shared_subscriptions; }
    "ringmq_retained_messages" Gauge "messages"
        "Retained messages." { retained_messages; }
    "ringmq_retained_bytes" Gauge "bytes"
        "Bytes of retained messages, topics included." { retained_bytes; }
    "ringmq_messages_received_total" Counter "messages"
        "PUBLISH packets received from clients." {
        messages_received_qos0 qos = "0";
        messages_received_qos1 qos = "1";
        messages_received_qos2 qos = "2";
    }
    "ringmq_messages_sent_total" Counter "messages"
        "PUBLISH packets sent to clients." {
        messages_sent_qos0 qos = "0";
        messages_sent_qos1 qos = "1";
        messages_sent_qos2 qos = "2";
    }
    "ringmq_packets_received_total" Counter "packets"
        "Packets of any type received." { packets_received; }
    "ringmq_packets_sent_total" Counter "packets"
        "Packets of any type sent." { packets_sent; }
    "ringmq_received_bytes_total" Counter "bytes"
        "Bytes received from clients." { bytes_received; }
    "ringmq_sent_bytes_total" Counter "bytes"
        "Bytes sent to clients." { bytes_sent; }
    "ringmq_publish_received_bytes_total" Counter "bytes"
        "Payload bytes of PUBLISH packets received." {
        publish_bytes_received_qos0 qos = "0";
        publish_bytes_received_qos1 qos = "1";
        publish_bytes_received_qos2 qos = "2";
    }
    "ringmq_publish_sent_bytes_total" Counter "bytes"
        "Payload bytes of PUBLISH packets sent." {
        publish_bytes_sent_qos0 qos = "0";
        publish_bytes_sent_qos1 qos = "1";
        publish_bytes_sent_qos2 qos = "2";
    }
    "ringmq_messages_dropped_total" Counter "messages"
        "Messages that did not reach a subscriber or the retained store, by reason." {
        dropped_queue_full reason = "queue_full";
        dropped_outgoing_full reason = "outgoing_full";
        dropped_expired reason = "expired";
        dropped_packet_too_large reason = "packet_too_large";
        dropped_not_encodable reason = "not_encodable";
        dropped_offline_qos0 reason = "offline_qos0";
        dropped_session_gone reason = "session_gone";
        dropped_not_authorized reason = "not_authorized";
        dropped_retained_limit reason = "retained_limit";
        dropped_retained_account reason = "retained_account";
        dropped_share_full reason = "share_full";
        dropped_share_empty reason = "share_empty";
        dropped_share_unreachable reason = "share_unreachable";
        dropped_payload_format reason = "payload_format";
        dropped_memory reason = "memory";
        dropped_overload reason = "overload";
        dropped_read_denied reason = "read_denied";
        dropped_rate reason = "rate";
        dropped_storage reason = "storage";
        dropped_unreadable reason = "unreadable";
    }
    "ringmq_events_total" Counter "events"
        "Events (telemetry.events) that were published." { events; }
    "ringmq_events_dropped_total" Counter "events"
        "Events for which there was no room." { events_dropped; }
    "ringmq_memory_bytes" Gauge "bytes"
        "Bytes that clients make the broker hold (limits.memory), by kind." {
        memory_input kind = "input";
        memory_output kind = "output";
        memory_pending kind = "pending";
        memory_inflight kind = "inflight";
        memory_retained kind = "retained";
        memory_sessions kind = "sessions";
        memory_subscriptions kind = "subscriptions";
        memory_hand_over kind = "hand_over";
        memory_storage kind = "storage";
        memory_bridges kind = "bridges";
    }
    "ringmq_memory_pressure" Gauge "level"
        "How short memory is: 0 not, 1 nothing more is stored, 2 no new clients, 3 no messages \
         after a second."
        { memory_pressure; }
    "ringmq_memory_shortages_total" Counter "events"
        "Times that memory became short, or shorter (limits.memory)." { memory_shortages; }
    "ringmq_memory_ended_total" Counter "connections"
        "Connections ended while memory was short: they sent a large packet in parts, or did not \
         read."
        { memory_ended; }
    "ringmq_memory_refused_total" Counter "requests"
        "What clients were refused while memory was short; who can be told gets 0x97." {
        memory_refused_subscription what = "subscription";
        memory_refused_message what = "message";
    }
    "ringmq_overload_level" Gauge "level"
        "What the shard does not do any more: 0 all is done, 1 accepts are paced, 2 CONNECT is \
         refused, 3 no QoS 0 to slow clients, 4 no QoS 0, 5 nothing more is stored." {
        overload_level;
    }
    "ringmq_overload_changes_total" Counter "events"
        "Changes of the level of overload." { overload_changes; }
    "ringmq_overload_signal" Gauge "thousandths"
        "What the level follows, in thousandths of what begins level 1." {
        signal_lag signal = "lag";
        signal_host_memory signal = "host_memory";
        signal_memory signal = "memory";
        signal_mail signal = "mailboxes";
        signal_buffers signal = "buffers";
        signal_admissions signal = "admissions";
        signal_storage signal = "storage";
    }
    "ringmq_overload_lag_seconds" Gauge "nanoseconds"
        "How long steps took that two in a row were at least." { overload_lag_nanos; }
    "ringmq_overload_accept_pace" Gauge "connections per second"
        "The pace at which the shard accepts; 0: any." { overload_pace; }
    "ringmq_overload_accepts_held_total" Counter "events"
        "Times that accepting had to wait for the pace." { accepts_held; }
    "ringmq_overload_subscriptions_refused_total" Counter "subscriptions"
        "Subscriptions refused because of overload." { overload_refused_subscription; }
    "ringmq_clients_limited" Gauge "sessions"
        "Sessions whose client has a limit of its own (limits)." { clients_limited; }
    "ringmq_rate_disconnects_total" Counter "connections"
        "Clients disconnected because they sent more than their rate (limits)."
        { rate_disconnects; }
    "ringmq_addresses_uncounted_total" Counter "connections"
        "Connections whose address had no limits because too many addresses are known."
        { addresses_uncounted; }
    "ringmq_bans_total" Counter "bans"
        "Bans that the broker made, by what was banned." {
        bans_address kind = "address";
        bans_client kind = "client_id";
    }
    "ringmq_bans_unwatched_total" Counter "events"
        "Times that nobody was watched or banned because the table was full." { bans_unwatched; }
    "ringmq_log_lines_left_out_total" Counter "lines"
        "Log lines about clients that their rate limit left out (log.connections)."
        { log_left_out; }
    "ringmq_clients_referred_total" Counter "connections"
        "Connections that were ended because this node leaves its cluster." { clients_referred; }
    "ringmq_cluster_durable_sessions_total" Counter "sessions"
        "Sessions adopted from lost nodes, and those that ended because a node adopted them."
        { sessions_adopted way = "adopted"; sessions_adopted_elsewhere way = "taken"; }
    "ringmq_cluster_durable_batches_total" Counter "batches"
        "Batches of the store that the stream of the cluster has, too." { durable_batches; }
    "ringmq_cluster_durable_failures_total" Counter "errors"
        "Times that the stream has not answered, or refused." { durable_failures; }
    "ringmq_cluster_durable_resends_total" Counter "logs"
        "Times that a whole log was begun to be sent anew." { durable_epochs; }
    "ringmq_cluster_durable_lost_batches_total" Counter "batches"
        "Batches that only this node had when another one adopted its sessions." { durable_lost; }
    "ringmq_cluster_durable_behind_batches" Gauge "batches"
        "Batches that are durable here and not in the stream." { durable_behind; }
    "ringmq_cluster_durable_out" Gauge "shards"
        "Shards whose batches the stream has not taken for two seconds." { durable_out; }
    "ringmq_share_returned_total" Counter "messages"
        "Messages that came back to their share group for another member, by why." {
        share_refused reason = "refused";
        share_ended reason = "ended";
    }
    "ringmq_share_passed_total" Counter "messages"
        "Messages of share groups between nodes: sent for a member there, or given back." {
        share_passed way = "sent";
        share_passed_here way = "received";
        share_passed_back way = "given_back";
        share_passed_again way = "came_back";
    }
    "ringmq_violations_total" Counter "violations"
        "Rules of the protocol broken by clients." { violations; }
    "ringmq_wills_sent_total" Counter "messages"
        "Will messages published." { wills_sent; }
    "ringmq_retained_slices_total" Counter "slices"
        "Times that retained messages were looked through for a new subscription."
        { retained_slices; }
    "ringmq_retained_superseded_total" Counter "messages"
        "Retained messages of which another node had a newer one." { retained_superseded; }
    "ringmq_retained_replayed_total" Counter "messages"
        "Retained messages sent because of a new subscription." { messages_retained_replayed; }
    "ringmq_inflight_messages" Gauge "messages"
        "QoS 1 and 2 messages sent and not yet acknowledged." { inflight; }
    "ringmq_pending_messages" Gauge "messages"
        "Messages that wait for a client." { pending_messages; }
    "ringmq_pending_bytes" Gauge "bytes"
        "Bytes of messages that wait for a client." { pending_bytes; }
    "ringmq_pending_on_disk_messages" Gauge "messages"
        "Messages that wait for a client and are in the store only." { pending_away_messages; }
    "ringmq_pending_on_disk_bytes" Gauge "bytes"
        "Bytes of these." { pending_away_bytes; }
    "ringmq_handovers_total" Counter "connections"
        "Connections moved between entry shard and home shard." {
        handovers_out direction = "out";
        handovers_in direction = "in";
    }
    "ringmq_handover_failures_total" Counter "attempts"
        "Attempts to move a connection to its home shard that failed; it is tried again."
        { handover_failures; }
    "ringmq_handovers_lost_total" Counter "connections"
        "Connections given up because the kernel lost their move to their home shard."
        { handovers_lost; }
    "ringmq_clients_taken_over_total" Counter "clients"
        "Clients that the process before this one has handed over: an upgrade."
        { clients_taken_over; }
    "ringmq_mail_sent_total" Counter "mails"
        "Mails put into other shards' mailboxes." { mail_sent; }
    "ringmq_mail_received_total" Counter "mails"
        "Mails taken from this shard's mailboxes." { mail_received; }
    "ringmq_doorbells_total" Counter "wakes"
        "Parked shards woken because of mail." { doorbells; }
    "ringmq_publisher_parks_total" Counter "parks"
        "Times that reading from a publisher stopped, by what it waits for." {
        parks_publisher reason = "subscriber";
        parks_mailbox reason = "mailbox";
        parks_memory reason = "memory";
        parks_rate reason = "rate";
        parks_storage reason = "storage";
        parks_bridge reason = "bridge";
    }
    "ringmq_bridge_acks_waiting" Gauge "messages"
        "Publications whose PUBACK or PUBREC waits for the other end of a bridge."
        { bridge_acks_waiting; }
    "ringmq_bridge_acks_failed_total" Counter "messages"
        "Publications that waited for the other end of a bridge and were answered otherwise." {
        bridge_acks_dropped reason = "dropped";
        bridge_acks_refused reason = "refused";
        bridge_acks_late reason = "timeout";
    }
    "ringmq_fanouts_total" Counter "messages"
        "Messages for more subscribers than are served at once; delivered over several steps."
        { fanouts; }
    "ringmq_tasks_total" Counter "requests"
        "Requests, and ends of sessions, that were too large for a part of one step."
        { tasks; }
    "ringmq_fanouts_under_way" Gauge "messages"
        "Messages that some of their subscribers are still to get." { fanouts_under_way; }
    "ringmq_steps_total" Counter "steps"
        "Passes of the shard's loop." { steps; }
    "ringmq_core_cpu_seconds_total" Counter "nanoseconds"
        "CPU time of the core's thread." { cpu_nanos; }
    "ringmq_step_busy_seconds_total" Counter "nanoseconds"
        "Time spent in steps that found something to do." { step_busy_nanos; }
    "ringmq_parked_seconds_total" Counter "nanoseconds"
        "Time the shard slept because there was nothing to do." { parked_nanos; }
    "ringmq_spun_seconds_total" Counter "nanoseconds"
        "Time the shard looked for work before it slept (runtime.spin)." { spun_nanos; }
    "ringmq_sleeps_total" Counter "sleeps"
        "Times the shard slept: in its own ring (doze) or in the executor (park)." {
        dozes stage = "doze";
        parks stage = "park";
    }
    "ringmq_gathering_sleeps_total" Counter "sleeps"
        "Dozes in which events were let gather (runtime.coalesce)." { dozes_gathering; }
    "ringmq_gathering_seconds" Gauge "nanoseconds"
        "How long events gather now before the shard wakes; 0 while it wakes for each."
        { gathering_nanos; }
    "ringmq_gathering_probes_total" Counter "probes"
        "Times that coalesce: auto tried the mode that had been worse." { gathering_probes; }
    "ringmq_gathering_switches_total" Counter "switches"
        "Times that coalesce: auto found that mode to be the better one." { gathering_switches; }
    "ringmq_control_mail" Gauge "mails"
        "Control mails that wait in this shard's mailboxes." { control_mail; }
    "ringmq_rings" Gauge "rings"
        "io_urings of this shard." { rings; }
    "ringmq_socket_slots_free" Gauge "slots"
        "Sockets that the open rings still have room for; further rings open as needed." {
        socket_slots_free;
    }
    "ringmq_receive_buffers_free" Gauge "buffers"
        "Receive buffers in reserve: not yet posted to the kernel." { receive_buffers_free; }
    "ringmq_receive_buffers_posted" Gauge "buffers"
        "Receive buffers that the kernel may fill now." { receive_buffers_posted; }
    "ringmq_buffer_exhaustions_total" Counter "events"
        "Times that the receive buffers of a core ran out." { buffer_exhaustions; }
    "ringmq_sends_in_flight" Gauge "sends"
        "Sends that the kernel has not finished." { sends_in_flight; }
    "ringmq_ring_enters_total" Counter "calls"
        "System calls that submitted to a ring or looked for completions." { ring_enters; }
    "ringmq_completions_total" Counter "completions"
        "Completions taken from the rings." { completions; }
    "ringmq_completion_overflows_total" Counter "events"
        "Times that a completion queue overflowed; nothing is lost." { completion_overflows; }
    "ringmq_completion_losses_total" Counter "events"
        "Times that the kernel had no memory for completions; the ring's connections were closed."
        { completion_losses; }
    "ringmq_storage_commits_total" Counter "commits"
        "Batches that became durable." { storage_commits; }
    "ringmq_storage_written_bytes_total" Counter "bytes"
        "Bytes written to the store, copies and padding included." { storage_written; }
    "ringmq_storage_copied_bytes_total" Counter "bytes"
        "Bytes of records that were copied to make room." { storage_copied; }
    "ringmq_storage_failures_total" Counter "errors"
        "Commits that failed." { storage_failures; }
    "ringmq_storage_troubles_total" Counter "errors"
        "Segments of the store that could not be made, read or removed." { storage_troubles; }
    "ringmq_storage_live_bytes" Gauge "bytes"
        "Bytes of stored records that are alive." { storage_live; }
    "ringmq_storage_used_bytes" Gauge "bytes"
        "Bytes that the store's segments hold, dead records included." { storage_used; }
    "ringmq_storage_values" Gauge "values"
        "Stored values that are alive." { storage_values; }
    "ringmq_storage_backlog_bytes" Gauge "bytes"
        "Bytes that wait to be durable." { storage_backlog; }
    "ringmq_storage_backlog_age_seconds" Gauge "nanoseconds"
        "How long the oldest of them has waited; the sum over shards." { storage_age_nanos; }
    "ringmq_storage_waiting" Gauge "connections"
        "Clients whose answers wait until something is durable." { storage_waiting; }
    "ringmq_storage_down" Gauge "shards"
        "Shards whose changes do not become durable because the disk fails." { storage_down; }
    "ringmq_storage_full" Gauge "shards"
        "Shards whose store has no room for new values." { storage_full; }
    "ringmq_storage_late" Gauge "shards"
        "Shards with half as much or more waiting to be durable as may, or for half as long."
        { storage_late; }
    "ringmq_storage_degraded" Gauge "shards"
        "Shards that acknowledge what is in memory only, because the disk fails or hangs."
        { storage_degraded; }
}

#[cfg(test)]
#[path = "counters_tests.rs"]
mod tests;
