//! Mistakes in work that is done in slices, and in the accounting of memory.

macro_rules! work {
    ([$($rest:ident)*] $($before:tt)*) => {
        mutants! { [$($rest)*] $($before)*
        // work in slices
        /// A fan-out ends with the step that it began in.
        FanoutForgetsRest,
        /// A fan-out delivered out of turn is delivered again with the next one.
        FanoutTwice,
        /// Something newer is delivered to a session before fan-outs that are on their way to it.
        FanoutOvertaken,
        /// A session counts as caught up with a fan-out that has not begun.
        FanoutCaughtEarly,
        /// A request of many filters ends with its first slice.
        TaskForgetsRest,
        /// A long list of filters is not checked to its end before it is begun with.
        RestUnchecked,
        /// A step goes on until nothing is left to do, whatever it costs.
        BudgetIgnored,
        /// Answers are sent with the end of the step only, after what goes on over several.
        AnswersLast,
        /// Mail has its whole share of the step at each of the step's looks at it.
        MailShareFresh,
        /// A shard is sent messages however much work it has ahead of it.
        MailAheadIgnored,
        /// A shard is sent costly messages however many are on their way.
        CostlyMailUnbounded,
        /// What is reserved for a costly message stays reserved when it is done.
        CostlyMailKept,
        // memory
        /// No limit on memory changes anything.
        MemoryLimitIgnored,
        /// Pending queues get longer although memory is short.
        MemoryQueuesGrow,
        /// QoS 0 goes to clients that do not read although memory is short.
        MemoryOutputGrows,
        /// New clients are let in although memory is short.
        MemoryConnectTaken,
        /// Messages are retained although memory is short.
        MemoryRetainedTaken,
        /// Subscriptions are granted although memory is short.
        MemorySubscribeTaken,
        /// Messages are taken although memory is full.
        MemoryPublishTaken,
        /// Messages are lost as soon as memory is full: publishers do not wait for it.
        MemoryFullAtOnce,
        /// Publishers that wait for memory never go on.
        MemoryWaitersForgotten,
        /// Clients that do not read are not ended although memory is short.
        MemoryStalledKept,
        /// Unfinished CONNECTs are kept although memory is short.
        MemoryUnfinishedKept,
        /// A publisher is told of success though nobody could take its message for want of memory.
        MemoryLossUntold,
        /// What ends a shortage of memory is what begins it.
        MemoryHysteresisMissing,
        /// What a shard holds is told to the others twice.
        MemoryToldTwice,
        /// The input of a connection that ends stays counted.
        MemoryInputLeaked,
        /// Windows and queues that are given back stay counted.
        MemoryFlowsLeaked,
        /// The names of topic aliases may take any memory.
        AliasesUnbounded,
        /// Who asks for little waits behind everybody who asks for much.
        FreshBehindServed,
        /// Who has had a turn has no other while anybody comes for a first one.
        ServedStarve,
        }
    };
}
