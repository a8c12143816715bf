//! Mistakes in what goes to another process during an upgrade.

macro_rules! upgrade {
    ([$($rest:ident)*] $($before:tt)*) => {
        mutants! { [$($rest)*] $($before)*
        /// A client that is handed over loses what was received of it and not processed.
        UpgradeInputLost,
        /// A client that is handed over loses what was not sent to it.
        UpgradeOutputLost,
        /// A client that is handed over loses its inflight window.
        UpgradeWindowLost,
        /// The part of a send that was withdrawn is lost.
        UpgradeRestLost,
        /// A suspended shard asks to be woken for timers that do not fire.
        UpgradeSleepless,
        /// Bans are not handed over.
        UpgradeBansLost,
        /// A client that is handed over loses its will.
        UpgradeWillLost,
        /// Nobody looks any more whether a client that is handed over is alive.
        UpgradeKeepAliveLost,
        /// A client that is handed over is in its share groups no more.
        UpgradeShareLost,
        /// Subscriptions that are handed over lose their options and identifiers.
        UpgradeOptionsLost,
        /// A client that is handed over loses rules of its own.
        UpgradeRulesLost,
        /// Retained messages are not handed over.
        UpgradeRetainedLost,
        /// For whose bounds a retained message counts is not handed over.
        UpgradeAccountsLost,
        /// Sessions without a connection are not handed over.
        UpgradeOfflineLost,
        /// A session without a connection that is handed over does not expire.
        UpgradeExpiryLost,
        /// Which QoS 2 messages a client has sent and not released is not handed over.
        UpgradeInboundLost,
        /// Messages that wait for a client are not handed over.
        UpgradePendingLost,
        /// Topic aliases are not handed over.
        UpgradeAliasLost,
        /// Records of TLS are numbered anew after a hand-over.
        UpgradeSequenceLost,
        /// A stored session that is handed over is not known to be stored.
        UpgradeStoredLost,
        /// Stored messages that are handed over are not known to be stored.
        UpgradeSlotLost,
        /// Messages that are in the store only are not handed over.
        UpgradeAwayLost,
        /// What was copied of a socket is claimed by who has its number later.
        UpgradeCopyOfAnother,
        /// What has changed of a session since it was copied is not handed over.
        UpgradeChangeUntold,
        /// A session that was copied is not replaced by the one that came after it.
        UpgradeEarlyTwice,
        /// What flows to a client that was copied is not handed over.
        UpgradeRestFlowLost,
        /// Sessions that could not be copied while they were served are forgotten.
        UpgradeSkippedForgotten,
        /// A copied session goes on from the slot of the store that it had when it was copied.
        UpgradeSlotStale,
        /// Copies stay of which it is not known that they are right.
        UpgradeStaleStay,
        /// A retained message that was copied stays what it was when it changes.
        UpgradeRetainedStays,
        /// Retained messages below `$SYS` that clients have published are not handed over.
        UpgradeRetainedSysLost,
        /// A publisher that waits for the other end of a bridge waits for ever after an upgrade.
        LinkUpgradeUnanswered,
        /// What publishers wait for is numbered after an upgrade as before.
        LinkNumbersAgain,
        /// What another node of the cluster has not acknowledged is not handed over.
        ClusterUpgradeWindowLost,
        /// The filters of other nodes are not handed over.
        ClusterUpgradeFiltersLost,
        /// Filters get new numbers, of which the other nodes are not told.
        ClusterUpgradeRenumbers,
        /// The new process takes the node's place under another incarnation.
        ClusterUpgradeAnew,
        /// Stamps of retained messages are not handed over.
        ClusterUpgradeStampsLost,
        /// Who waits for room goes on while the shard is suspended.
        ClusterUpgradeHeldGoOn,
        /// After an upgrade it is acknowledged what the cluster's stream may not have.
        ClusterUpgradeDurableEarly,
        /// Which ClientIds were claimed lately is not handed over.
        ClusterUpgradeRecentLost,
        /// It is not handed over which lost nodes' sessions are still to be adopted.
        ClusterUpgradeLostForgotten,
        /// What the cluster's thread has counted is not handed over.
        ClusterUpgradeCountsLost,
        /// Whether all retained messages of the store have come is not looked at.
        UpgradeRetainedUncompared,
        /// What was counted towards bans is not handed over.
        UpgradeOffencesLost,
        /// What was counted is not handed over.
        UpgradeCountersLost,
        /// It is not told that the connection of a copy has ended.
        UpgradeGoneUntold,
        /// A log is read on although a batch that was read of it was written again elsewhere.
        StorageReadAgainUnseen,
        /// Segments that were dropped since a log was read are taken for parts of it.
        StorageReadDroppedStay,
        /// A store is changed by the process that takes it over before that serves.
        StorageHeldChanges,
        }
    };
}
