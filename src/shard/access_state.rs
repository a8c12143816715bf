//! Who is being let in, and what of decisions is remembered: the shard's side of [`crate::access`].

use super::admission::Admissions;
use super::asking::Asking;
use super::permission::Permissions;
use crate::access::logins::Logins;

/// What a shard knows of its clients' rights.
#[derive(Default)]
pub(super) struct AccessState {
    pub(super) admissions: Admissions,
    pub(super) permissions: Permissions,
    /// Whose packets wait until a service has said whether they may.
    pub(super) asking: Asking,
    /// Who was let in lately.
    pub(super) logins: Logins,
}
