//! A Linux guest works on its disk while the storage service behind it is killed, over and over: nothing that was
//! acknowledged is lost, and no call fails.
//!
//! The service of `tests/service` has a cache that dies with it, so that each kill takes back what was acknowledged and
//! not flushed; only the appliance still has it. The guest (`kills/guest`) compares everything it reads, and tells after
//! each sync what that has made durable; the file is compared with it at the end, and after everything died at once.

#[path = "kills/guest/block.rs"]
pub(crate) mod block;
pub(crate) mod guest;
pub(crate) mod told;

use crate::fixture::{script, stage_alone, target};
use crate::service::{self, Service};
use guest::LinuxGuest;
use image_launch::disk::{NbdServer, Server};
use image_launch::net;
use image_launch::stage::Stage;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tests_service::record::Record;

const SIZE: u64 = 64 << 20;
/// How often the service with a cache is killed, unless `CORBEL_KILLS` says otherwise.
const KILLS: u32 = 250;

/// How long the service is away after kill number `n`.
fn outage(n: u32, kills: u32) -> Duration {
    Duration::from_millis(match n {
        _ if n == kills / 2 => 60_000,
        _ if n % 400 == 200 => 5000,
        _ if n % 100 == 50 => 1000,
        _ => u64::from(n * 7 % 40),
    })
}

/// How long the guest may work before kill number `n`: 20 to 170 ms.
fn pause(n: u32) -> Duration {
    Duration::from_millis(20 + block::mix(n.into()) % 150)
}

fn kills() -> u32 {
    std::env::var("CORBEL_KILLS").map_or(KILLS, |text| text.parse().expect("CORBEL_KILLS is a number"))
}

/// A host with a place for Linux guests, whose only disk is behind service 0.
fn host() -> (Stage, crate::fixture::Turn) {
    let mut script = script(target(), SIZE, Server::QemuNbd);
    script.disks.clear();
    script.net = net::Options { guest: true, ..net::Options::default() };
    service::expose(&mut script, 0, &[]);
    stage_alone(&script)
}

#[test]
fn a_guest_loses_nothing_when_the_service_and_its_cache_die_over_and_over() {
    let (stage, _turn) = host();
    let log = stage.scratch.file("log");
    let mut service = Service::start(&stage, 0, SIZE, |options| options.log = Some(log.clone()));
    let mut guest = LinuxGuest::start(&stage);
    let start = Instant::now();
    let kills = kills();
    for n in 0..kills {
        work(&mut guest, &service, n, &stage);
        service.kill();
        sleep(outage(n, kills));
        service.restart(&stage);
    }
    let done = guest.stop(&stage);
    service.kill();
    let lost = losses(&log);
    println!(
        "{kills} kills in {:?}, {} of them took {} acknowledged writes: {done}",
        start.elapsed(),
        lost.0,
        lost.1
    );
    assert!(lost.0 > kills as usize / 2, "most kills took nothing: this proves little");
    // The last sync was answered, so all of it is in the file, which no cache stands before any more.
    guest.floor.must_be_in(&service.options.file);
}

#[test]
fn nothing_that_was_synced_is_lost_when_everything_dies_at_once() {
    let (mut stage, _turn) = host();
    let mut service = Service::start(&stage, 0, SIZE, |options| options.cache = spilling());
    let mut guest = LinuxGuest::start(&stage);
    for n in 0..20 {
        work(&mut guest, &service, n, &stage);
        service.kill();
        service.restart(&stage);
    }
    while guest.syncs < 20 {
        guest.must_go_on_for(Duration::from_millis(10), &stage);
    }
    // All three, with everything that any of them held.
    service.kill();
    stage.appliance.process().stop();
    guest.die();
    guest.floor.must_be_in(&service.options.file);
}

/// A test that cannot fail proves nothing: here the service hides its loss, so that the appliance has no reason to write
/// anything again.
#[test]
fn a_loss_that_the_service_hides_is_found_out() {
    let (stage, _turn) = host();
    let mut service =
        Service::start(&stage, 0, SIZE, |options| options.incarnation = Some("always-the-same".into()));
    let mut guest = LinuxGuest::start(&stage);
    let start = Instant::now();
    for n in 0.. {
        while service.figure("executed") < 8 && guest.goes_on_for(Duration::from_millis(5)) {}
        if !guest.goes_on_for(pause(n)) {
            break;
        }
        service.kill();
        service.restart(&stage);
        assert!(start.elapsed() < Duration::from_secs(60), "{n} kills, and nothing was missed");
    }
    let Some(Err(reason)) = guest.end else { panic!("{:?}", guest.end) };
    assert!(reason.contains("holds write"), "{reason}");
}

#[test]
fn a_guest_does_not_notice_that_qemu_nbd_is_killed() {
    let (stage, _turn) = host();
    let file = stage.scratch.file("disk");
    image_launch::disk::empty(&file, SIZE).unwrap();
    let serve =
        || NbdServer::start(&stage.net, &stage.scratch, &Server::QemuNbd, &file, service::PORT).unwrap();
    let mut server = serve();
    let mut guest = LinuxGuest::start(&stage);
    for n in 0..kills().min(100) {
        guest.must_go_on_for(pause(n), &stage);
        service::kill(server.process());
        sleep(outage(n, 200).min(Duration::from_secs(5)));
        server = serve();
    }
    println!("{}", guest.stop(&stage));
    guest.floor.must_be_in(&file);
}

/// Lets the guest work before kill number `n`: a kill takes something only where something came.
fn work(guest: &mut LinuxGuest, service: &Service, n: u32, stage: &Stage) {
    while service.figure("executed") < 8 {
        guest.must_go_on_for(Duration::from_millis(5), stage);
    }
    guest.must_go_on_for(pause(n), stage);
}

fn spilling() -> tests_service::medium::Cache {
    tests_service::medium::Cache::Volatile { spill: 30 }
}

/// How many lives of the service took acknowledged writes with them, and how many of these there were.
fn losses(log: &Path) -> (usize, usize) {
    let text = fs::read_to_string(log).unwrap();
    let (mut lives, mut writes, mut open) = (0, 0, 0);
    for record in text.lines().filter_map(Record::parse) {
        match record.what.as_str() {
            "write" | "zeroes" | "trim" if record.error == 0 && !record.durable => open += 1,
            "flush" if record.error == 0 => open = 0,
            "start" => {
                lives += usize::from(open > 0);
                writes += open;
                open = 0;
            }
            _ => {}
        }
    }
    (lives, writes)
}
