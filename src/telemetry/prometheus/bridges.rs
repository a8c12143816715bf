//! The families about bridges.

use super::{Labels, PageText};
use crate::telemetry::BridgeRow;

impl PageText {
    pub(super) fn bridges(&mut self, bridges: &[BridgeRow]) {
        if bridges.is_empty() {
            return;
        }
        let name = "ringmq_bridge_up";
        self.family(name, "gauge", "1 while the bridge is connected to its other end.");
        for row in bridges {
            let labels: Labels<'_> = &[("bridge", &row.name), ("type", &row.kind)];
            self.sample(name, labels, u8::from(row.state == "up"));
        }
        type Figure = fn(&BridgeRow) -> u64;
        let figures: [(&str, &str, &str, Figure); 11] = [
            ("connections", "gauge", "Connections that are up.", |r| r.connections),
            ("full", "gauge", "1 while there is no room and publishers wait.", |r| r.full.into()),
            ("unreadable", "gauge", "1 while its disk cannot be read.", |r| r.unreadable.into()),
            ("waiting_messages", "gauge", "Messages that wait, or are under way.", |r| r.waiting),
            ("waiting_bytes", "gauge", "Bytes of messages that wait.", |r| r.waiting_bytes),
            ("matched_total", "counter", "Messages that matched its filters.", |r| r.matched),
            ("delivered_total", "counter", "Messages that have arrived.", |r| r.delivered),
            ("brought_total", "counter", "Messages brought and accepted here.", |r| r.brought),
            ("connects_total", "counter", "Connections that were made.", |r| r.connects),
            ("retries_total", "counter", "Messages that were tried again.", |r| r.retries),
            ("damaged_total", "counter", "Broken batches on disk, left out.", |r| r.damaged),
        ];
        for (name, kind, help, figure) in figures {
            let name = format!("ringmq_bridge_{name}");
            self.of_each(&name, kind, help, bridges, |r| ("bridge", &r.name, figure(r)));
        }
        let name = "ringmq_bridge_failures_total";
        let help = "Attempts to connect that failed, and connections that broke.";
        self.of_each(name, "counter", help, bridges, |r| ("bridge", &r.name, r.failures));
        self.bridge_counts(bridges);
    }

    /// Writes the families that have a label of their own besides the bridge.
    fn bridge_counts(&mut self, bridges: &[BridgeRow]) {
        type Counts = fn(&BridgeRow) -> &[(&'static str, u64)];
        let refused = "How often another MQTT broker has not taken a message, by its reason code.";
        let disk = "Reads and writes of the disk of a bridge's buffer that failed.";
        let counts: [(&str, &str, &str, Counts); 3] = [
            ("dropped_total", "reason", "Messages that the bridge has dropped.", |row| {
                row.dropped.as_slice()
            }),
            ("refusals_total", "reason", refused, |row| row.refused.as_slice()),
            ("disk_failures_total", "operation", disk, |row| row.disk_failures.as_slice()),
        ];
        for (name, label, help, counts) in counts {
            let name = format!("ringmq_bridge_{name}");
            self.family(&name, "counter", help);
            for row in bridges {
                for (value, count) in counts(row) {
                    self.sample(&name, &[("bridge", &row.name), (label, value)], count);
                }
            }
        }
    }
}
