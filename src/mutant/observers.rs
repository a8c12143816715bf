//! Mistakes in what operators ask and watch.

macro_rules! observers {
    ([$($rest:ident)*] $($before:tt)*) => {
        mutants! { [$($rest)*] $($before)*
        // inquiries
        /// A slice of a list of clients leaves out the one that the next begins with.
        InquirySliceSkips,
        /// What a bridge brings does not wait for mail that was there before it.
        SubmissionOvertakesMail,
        /// A client that is to be ended is only disconnected.
        KickKeepsSession,
        /// What is explained forgets No Local.
        ExplainForgetsNoLocal,
        // those who watch
        /// A message that several clients get is traced for none of them.
        TraceForgetsFanOut,
        /// Events of one step come the newest first.
        EventsReversed,
        /// A trace that begins here is not told to who gets the message.
        TraceNotPassedOn,
        /// A sampled message that is dropped leaves no span.
        SpansForgetDrops,
        /// A sampled message that is held begins anew when it is tried again.
        SpanForgetsWait,
        /// A sampled message of the API, of a bridge, or a will has no receipt.
        BroughtUnrecorded,
        /// What is dropped is counted for no client.
        DropsOfNobody,
        // links
        /// A link gives its newest messages first.
        LinkReorders,
        /// What a full link loses is not counted.
        LinkLossUncounted,
        /// A link takes in any amount.
        LinkUnbounded,
        /// A link takes what its owner has published.
        LinkTakesOwn,
        /// Publishers do not wait for a full link whose policy is that they do.
        LinkPauseSkipped,
        /// Of the publishers that wait for a link only the first goes on.
        LinkWaitersForgotten,
        /// A publisher waits for any full link, wanted or not.
        LinkOthersWait,
        /// Wills go into a link that has no room for them.
        LinkWillUnbounded,
        /// A publisher is acknowledged before the other end of a bridge has its message.
        LinkAnswersEarly,
        /// Some publishers are not told that the other end of a bridge has their message.
        LinkAnswerForgotten,
        /// A publisher's answers come in the order in which its messages are delivered.
        LinkAnswersOvertake,
        /// Who waits for a message that a link loses is not told.
        LinkLossUnanswered,
        /// A publication that is sent again while its answer waits is taken again.
        LinkAnswersTwice,
        /// A link that is to take other filters takes those that it had, too.
        LinkChangeKeepsFilters,
        /// A link that is to take other filters loses what waits in it.
        LinkChangeLosesQueue,
        /// Who waits for what a link took before it was changed is told that it is lost.
        LinkChangeAnswersLost,
        /// Who waits for what a link took before a reload by which nobody waits is told nothing.
        LinkSilencedUntold,
        /// Publishers wait on for a full link that does not take their messages any more.
        LinkChangeWaitersForgotten,
        /// A message that several filters match is taken for each, where once is enough.
        LinkTakesAgain,
        /// Each of several links that share messages takes all.
        LinkPartsMixed,
        /// A client that may have no more publications under way to a bridge cannot ping.
        LinkPingsUnheard,
        }
    };
}
