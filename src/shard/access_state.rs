//! A shard's side of [`crate::access`]: the clients whose admission is under way, the decisions
//! about clients that the shard remembers, and the questions to services that are not answered yet.

use super::admission::Admissions;
use super::asking::Asking;
use super::permission::Permissions;
use crate::access::logins::Logins;

/// What one shard knows of its clients' rights.
#[derive(Default)]
pub(super) struct AccessState {
    pub(super) admissions: Admissions,
    pub(super) permissions: Permissions,
    /// Clients that wait until a service has said whether they may do what they ask for.
    pub(super) asking: Asking,
    /// Clients that were admitted lately, by the proof that they showed.
    pub(super) logins: Logins,
}
