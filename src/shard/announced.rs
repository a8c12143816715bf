//! The limits that clients were told when they connected. A client that connected before a reload
//! may keep using the limits of that time.

use super::settings::Settings;

/// What CONNACK tells a client that it may send.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnackLimits {
    pub max_packet_size: u32,
    pub max_topic_alias: u16,
    pub receive_maximum: u16,
    pub max_qos: u8,
    pub retain: bool,
}

impl ConnackLimits {
    #[inline]
    pub(super) fn of(settings: &Settings) -> Self {
        ConnackLimits {
            max_packet_size: settings.max_packet_size,
            max_topic_alias: settings.max_topic_alias,
            receive_maximum: settings.receive_maximum,
            max_qos: settings.max_qos,
            retain: settings.retain,
        }
    }

    /// The widest limits of both.
    fn widest(self, other: ConnackLimits) -> Self {
        ConnackLimits {
            max_packet_size: self.max_packet_size.max(other.max_packet_size),
            max_topic_alias: self.max_topic_alias.max(other.max_topic_alias),
            receive_maximum: self.receive_maximum.max(other.receive_maximum),
            max_qos: self.max_qos.max(other.max_qos),
            retain: self.retain || other.retain,
        }
    }
}

/// The limits that clients were told before reloads of the settings.
#[derive(Default)]
pub(super) struct AnnouncedLimits {
    /// How often the settings changed; wraps.
    reloads: u8,
    /// The widest of what clients were told before the last change; `None` before the first.
    earlier: Option<ConnackLimits>,
}

impl AnnouncedLimits {
    /// How often the settings changed, which a connection remembers; wraps.
    #[inline]
    pub(super) fn reloads(&self) -> u8 {
        self.reloads
    }

    /// The settings change; `before` are those that have been in force.
    pub(super) fn change(&mut self, before: &Settings) {
        let before = ConnackLimits::of(before);
        self.earlier = Some(self.earlier.map_or(before, |earlier| earlier.widest(before)));
        self.reloads = self.reloads.wrapping_add(1);
    }

    /// The limits that a client was told when it connected, after `reloads` changes of the
    /// settings. When that number is `None`, the client is held to `settings`, which are those in
    /// force.
    #[inline]
    pub(super) fn to(
        &self,
        reloads: impl FnOnce() -> Option<u8>,
        settings: &Settings,
    ) -> ConnackLimits {
        let earlier =
            |announced: &ConnackLimits| (reloads()? != self.reloads).then_some(*announced);
        self.earlier.as_ref().and_then(earlier).unwrap_or_else(|| ConnackLimits::of(settings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn settings(max_packet_size: u32, max_qos: u8) -> Settings {
        Settings { max_packet_size, max_qos, ..Settings::new(&Config::default()) }
    }

    #[test]
    fn who_came_before_a_reload_keeps_the_widest_of_what_was_said() {
        let mut announced = AnnouncedLimits::default();
        let settings = [settings(1000, 2), settings(5000, 0), settings(10, 1)];
        assert_eq!(announced.to(|| Some(0), &settings[0]).max_packet_size, 1000);
        announced.change(&settings[0]);
        let told = announced.to(|| Some(0), &settings[1]);
        assert_eq!((told.max_packet_size, told.max_qos), (1000, 2));
        announced.change(&settings[1]);
        let told = announced.to(|| Some(0), &settings[2]);
        assert_eq!((told.max_packet_size, told.max_qos), (5000, 2));
        assert_eq!(announced.reloads(), 2);
    }

    #[test]
    fn who_came_after_the_last_reload_is_held_to_what_is_in_force() {
        let mut announced = AnnouncedLimits::default();
        let (before, after) = (settings(1000, 2), settings(10, 1));
        announced.change(&before);
        for reloads in [Some(1), None] {
            let told = announced.to(|| reloads, &after);
            assert_eq!((told.max_packet_size, told.max_qos), (10, 1));
        }
    }
}
