//! The cells of `FAULTS.md` that are run on the real image: what goes wrong, while what is going on.
//!
//! A test is a row of the table. It boots the image with seven disks, one a column; an initiator works on each as its
//! column says, then it all goes wrong at once, and each has to come out as its cell says, with nothing lost: not while
//! the services live, and not of what was flushed when they have died.

mod nbdkit;
mod rows;
mod table;
mod worker;
mod world;

use crate::fixture::{script, stage_alone, target};
use crate::inside::play;
use crate::service;
use image_launch::disk::Server;
use image_launch::net::Wire;

pub(crate) use world::lose;

/// What is played inside the networks: a row each.
pub(crate) const SCENARIOS: &[(&str, fn())] = rows::SCENARIOS;

fn row(scenario: &str) {
    let mut script = script(target(), 0, Server::QemuNbd);
    script.disks.clear();
    script.memory = 256;
    for n in 0..7 {
        let volume = format!("nbd://{}:{}/disk", Wire::Service.here(), service::PORT + n);
        service::expose(&mut script, n, &[("volume", &volume), ("hold", "15")]);
    }
    let (mut stage, _turn) = stage_alone(&script);
    play(&mut stage, scenario);
}

#[test]
fn the_services_are_killed_and_keep_their_pages() {
    row("killed");
}

#[test]
fn the_services_lose_their_power() {
    row("power_loss");
}

#[test]
fn the_services_hang_and_go_on() {
    row("hang");
}

#[test]
fn services_without_a_fence_execute_late_what_dead_connections_brought() {
    row("ghosts");
}

#[test]
fn nbdkit_fails_pauses_and_delays() {
    row("nbdkit");
}

#[test]
fn the_service_network_works_one_way_only() {
    row("half_open");
}

#[test]
fn a_tenth_of_all_frames_is_lost() {
    row("weather");
}

#[test]
fn the_host_network_is_cut() {
    row("host_cut");
}

#[test]
fn the_initiators_die_and_log_in_again() {
    row("initiators_die");
}

#[test]
fn twins_log_in_over_and_over() {
    row("twins");
}

#[test]
fn the_appliance_is_reset() {
    row("reset");
}

#[test]
fn the_appliance_stands_still_and_goes_on() {
    row("standstill");
}

#[test]
fn the_services_report_errors() {
    row("errors");
}

#[test]
fn the_services_give_replies_that_are_none() {
    row("lies");
}

#[test]
fn a_write_is_torn() {
    row("torn");
}

#[test]
fn a_read_comes_back_damaged() {
    row("damage");
}

#[test]
fn the_exports_become_others() {
    row("changes");
}
