//! Peers that do not keep to the protocol: they lose their own connection or command, everybody else goes on.
//!
//! The peers speak from inside the networks ([`crate::inside`]). Beside each of them a steady session works through its
//! disk, which must lose nothing and never wait long.

mod commands;
mod data_out;
mod liar;
mod login;
mod neighbours;
pub(crate) mod peer;
mod requests;
mod sequence;
mod services;
pub(crate) mod session;
mod steady;
mod table;

use crate::fixture::{script, stage_alone, targets};
use crate::inside::play;
use image_launch::appliance::Kind;
use image_launch::disk::Server;
use image_launch::net::Wire;
use image_launch::stage::{IQN, Script};
use std::time::Instant;

pub(crate) use requests::healthy;
pub(crate) use steady::{Steady, good_login};

const SIZE: u64 = 16 << 20;

/// What can be played inside.
pub(crate) const SCENARIOS: &[(&str, fn())] = &[
    ("bad_logins", login::bad_logins),
    ("same_isid_races", login::same_isid_races),
    ("slow_logins", login::slow_logins),
    ("bad_sessions", commands::bad_sessions),
    ("table", table::table),
    ("noise", neighbours::noise),
    ("greedy", neighbours::greedy),
    ("bad_requests", requests::bad_requests),
    ("slow_requests", requests::slow_requests),
    ("lying_services", services::lying_services),
];

/// The appliance as a process, unless `CORBEL_TARGET` names another body: most of this is about protocols.
pub(crate) fn body() -> Kind {
    if std::env::var_os("CORBEL_TARGET").is_some() { targets()[0] } else { Kind::Hosted }
}

/// Three disks: for the steady session, for the misbehaved, and for those that reserve and lock what they can.
pub(crate) fn three_disks(kind: Kind) -> Script {
    let mut script = script(kind, SIZE, Server::QemuNbd);
    script.disks = vec![(SIZE, Server::QemuNbd); 3];
    script
}

#[test]
fn logins_that_make_no_sense_are_refused_and_disturb_nobody() {
    let (mut stage, _turn) = stage_alone(&three_disks(body()));
    play(&mut stage, "bad_logins");
    play(&mut stage, "same_isid_races");
}

#[test]
fn connections_that_never_log_in_lose_their_slots() {
    let (mut stage, _turn) = stage_alone(&three_disks(body()));
    play(&mut stage, "slow_logins");
}

#[test]
fn sessions_that_break_the_rules_disturb_nobody() {
    let (mut stage, _turn) = stage_alone(&three_disks(body()));
    play(&mut stage, "bad_sessions");
    play(&mut stage, "noise");
    play(&mut stage, "greedy");
}

#[test]
fn every_case_of_the_table_is_answered_to_the_byte_and_disturbs_nobody() {
    let (mut stage, _turn) = stage_alone(&three_disks(body()));
    play(&mut stage, "table");
}

#[test]
fn services_that_lie_and_clients_that_dawdle_hold_up_their_own_only() {
    let mut script = script(body(), SIZE, Server::nbdkit());
    for n in 0..services::liars() {
        let mut set =
            |key: &str, value: String| script.config.push((format!("target.{}.{key}", n + 1), value));
        set("iqn", format!("{IQN}:disk{}", n + 1));
        set("volume", format!("nbd://{}:{}/disk", Wire::Service.here(), usize::from(services::PORT) + n));
        set("initiators", "*".into());
    }
    let (mut stage, _turn) = stage_alone(&script);
    // Both are a matter of waiting, in different places.
    play(&mut stage, "lying_services+slow_requests");
}

#[test]
fn requests_that_make_no_sense_are_refused_and_disturb_nobody() {
    let (mut stage, _turn) = stage_alone(&three_disks(body()));
    play(&mut stage, "bad_requests");
}

#[test]
fn the_image_bears_what_the_process_bears() {
    if std::env::var_os("CORBEL_TARGET").is_some() {
        return; // the tests above have played on that body
    }
    let (mut stage, _turn) = stage_alone(&three_disks(Kind::default()));
    for scenario in [
        "bad_logins",
        "same_isid_races",
        "bad_sessions",
        "table",
        "noise",
        "greedy",
        "bad_requests",
        "forged_frames",
        "flood",
    ] {
        let start = Instant::now();
        play(&mut stage, scenario);
        println!("{scenario}: {:?}", start.elapsed());
    }
}
