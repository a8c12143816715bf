//! Nodes of a cluster over an engine that loses, doubles, delays and reorders frames, changes some
//! and is divided at times: nodes alone ([`nodes`]), whole brokers ([`whole`]), sessions that go
//! from one to another ([`takeovers`]), retained messages ([`retained`]), share groups
//! ([`groups`]), and wills of nodes that die ([`wills`]).

mod durable;
mod durable_upgrades;
mod engine;
mod groups;
mod keeper;
mod nodes;
mod retained;
mod takeovers;
mod upgrades;
pub mod whole;
mod wills;

#[test]
fn retained_messages_are_the_same_at_all_nodes() {
    (1..=6).for_each(retained::simulate);
}

/// One run of each kind.
pub fn simulate(seed: u64) {
    nodes::simulate(seed);
    // A hundred times as much work as the nodes alone.
    if seed % 40 == 1 {
        whole::simulate(seed);
    }
    if seed % 20 == 7 {
        takeovers::simulate(seed);
    }
    if seed % 20 == 17 {
        takeovers::a_node_that_leaves_loses_nothing(seed);
        takeovers::a_node_that_stops_refers_its_clients(seed);
    }
    if seed % 20 == 11 {
        retained::simulate(seed / 20);
    }
    if seed % 20 == 3 {
        wills::simulate(seed / 20);
    }
    if seed % 10 == 9 {
        durable::simulate(seed / 10);
    }
    if seed % 10 == 2 {
        durable_upgrades::simulate(seed / 10);
    }
    if seed % 20 == 15 {
        upgrades::simulate(seed / 20);
        upgrades::the_old_process_dies(seed / 20);
    }
    if seed % 20 == 13 {
        groups::simulate(seed / 20);
    }
}

#[test]
fn nodes_lose_nothing_and_know_each_others_filters() {
    (1..=20).for_each(simulate);
}

#[test]
fn brokers_that_are_nodes_deliver_each_message_once() {
    (2..=3).for_each(whole::simulate);
}

#[test]
fn share_groups_get_each_message_once_in_the_whole_cluster() {
    (0..10).for_each(groups::simulate);
}

#[test]
fn a_node_is_replaced_and_no_other_node_notices() {
    (0..12).for_each(upgrades::simulate);
    (0..12).for_each(upgrades::the_old_process_dies);
}

#[test]
fn wills_of_a_node_that_dies_are_published_once() {
    (0..4).for_each(wills::simulate);
}

#[test]
fn sessions_of_a_lost_node_are_adopted() {
    (0..8).for_each(durable::simulate);
}

#[test]
fn durable_nodes_are_replaced_and_nothing_acknowledged_is_lost() {
    (0..12).for_each(durable_upgrades::simulate);
}

#[test]
fn a_node_leaves_and_its_sessions_go_to_others() {
    (1..=4).for_each(takeovers::a_node_that_leaves_loses_nothing);
    takeovers::a_node_that_stops_refers_its_clients(1);
}

#[test]
fn sessions_follow_their_clients_to_other_nodes() {
    (1..=6).for_each(takeovers::simulate);
}
