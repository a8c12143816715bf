//! `/share_groups`: shared subscriptions and their members.

use super::page::{Page, Paging};
use super::problem::{ApiProblem, Details};
use super::{ApiState, JsonResult, Path, Query};
use crate::shard::Shard;
use crate::shard::inquiry::{GroupMember, GroupRow};
use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

/// The largest number of members that are listed.
const MOST: usize = 100_000;

/// A share group.
#[derive(Serialize, ToSchema)]
pub(super) struct ShareGroup {
    /// `$share/group/filter`, mountpoint included.
    topic: String,
    /// Its members at this node: 0 when only other nodes of the cluster have some.
    members: usize,
    /// The shard that it is at home on, which picks the member for a message.
    shard: u8,
}

/// A member of a share group.
#[derive(Serialize, ToSchema)]
#[schema(as = Member)]
pub(super) struct MemberInfo {
    /// Its ClientId.
    clientid: String,
    /// It is connected, as far as the group knows.
    connected: bool,
    /// It had no room for a message when it was last asked.
    full: bool,
}

/// Share groups, in no particular order.
#[utoipa::path(get, path = "/share_groups", tag = "subscriptions", params(Paging),
    responses((status = 200, body = Page<ShareGroup>), (status = 400, body = Details)))]
pub(super) async fn list(
    axum::extract::State(context): ApiState,
    Query(paging): Query<Paging>,
) -> JsonResult<Page<ShareGroup>> {
    let wanted = paging.checked::<u32>()?;
    let ask = move |shard: &mut Shard, from: &u32, most| shard.share_groups(*from, most);
    let (rows, next) = context.collect(&wanted, ask).await?;
    let shown = |row: GroupRow| ShareGroup {
        topic: row.name.into(),
        members: row.members,
        shard: row.shard,
    };
    Ok(Json(wanted.page(rows.into_iter().map(shown).collect(), None, next)))
}

/// The members of a share group.
#[utoipa::path(get, path = "/share_groups/{topic}/members", tag = "subscriptions",
    params(("topic" = String, Path, description = "`$share/group/filter`, percent-encoded")),
    responses((status = 200, body = Vec<MemberInfo>), (status = 404, body = Details)))]
pub(super) async fn members(
    axum::extract::State(context): ApiState,
    Path(name): Path<String>,
) -> JsonResult<Vec<MemberInfo>> {
    let home = context.home(&name);
    let (mut all, mut from) = (Vec::<GroupMember>::new(), 0);
    loop {
        let group = name.clone();
        let ask = move |shard: &mut Shard| shard.group_members(&group, from, super::SLICE);
        let Some(slice) = context.ask(home, ask).await? else {
            return Err(ApiProblem::unknown(format!("there is no share group `{name}`")));
        };
        all.extend(slice.rows);
        match slice.next {
            Some(next) if all.len() < MOST => from = next,
            _ => break,
        }
    }
    let mut members = Vec::with_capacity(all.len());
    for part in all.chunks(super::SLICE) {
        for shard in 0..context.shards() {
            let here: Vec<GroupMember> =
                part.iter().copied().filter(|m| usize::from(m.session.shard.0) == shard).collect();
            if here.is_empty() {
                continue;
            }
            let ask = move |shard: &mut Shard| -> Vec<_> {
                here.into_iter().filter_map(|m| Some((shard.name_of(m.session)?, m))).collect()
            };
            let shown = |(name, member): (Box<str>, GroupMember)| MemberInfo {
                clientid: name.into(),
                connected: member.connected,
                full: member.full,
            };
            members.extend(context.ask(shard, ask).await?.into_iter().map(shown));
        }
    }
    Ok(Json(members))
}
