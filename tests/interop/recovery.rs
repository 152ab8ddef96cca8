//! How long it takes until all is well again: measured, printed as a table, and held to bounds that a busy machine keeps.

use crate::fixture::{Turn, script, stage_alone, target};
use crate::hostile::peer::{Peer, Who};
use crate::hostile::session::{GOOD, Session, lun, read10};
use crate::inside::play;
use crate::kills::guest::LinuxGuest;
use crate::service::{self, Inside, Place, Service};
use image_launch::disk::Server;
use image_launch::net;
use image_launch::qmp::Qmp;
use image_launch::stage::Stage;
use serde_json::json;
use std::thread::sleep;
use std::time::{Duration, Instant};

const SIZE: u64 = 64 << 20;
/// How often each is measured.
const TIMES: usize = 5;
/// What even a busy machine keeps.
const BOUND: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(90);

/// What is played inside the networks.
pub(crate) const SCENARIOS: &[(&str, fn())] = &[("recovery", recovery)];

fn host(guest: bool) -> (Stage, Turn) {
    let mut script = script(target(), 0, Server::QemuNbd);
    script.disks.clear();
    script.net = net::Options { guest, ..net::Options::default() };
    service::expose(&mut script, 0, &[]);
    stage_alone(&script)
}

#[test]
#[ignore = "a measurement that takes three minutes"]
fn all_is_well_soon_after_the_service_or_the_appliance_is_back() {
    let (mut stage, _turn) = host(false);
    play(&mut stage, "recovery");
    let logins = logins(&stage.appliance.console());
    row("appliance reset to login accepted, its own time", &logins);
    assert_eq!(logins.len(), 1 + TIMES, "{}", stage.appliance.console());
}

#[test]
#[ignore = "a measurement that takes three minutes"]
fn a_guest_waits_little_longer_than_the_service_is_away() {
    let (stage, _turn) = host(true);
    let mut service = Service::start(&stage, 0, SIZE, |_| {});
    let mut guest = LinuxGuest::start(&stage);
    let away = [0, 0, 1, 3].map(Duration::from_secs);
    for time in away {
        guest.must_go_on_for(Duration::from_secs(2), &stage);
        service.kill();
        sleep(time);
        service.restart(&stage);
    }
    guest.must_go_on_for(Duration::from_secs(2), &stage);
    let done = guest.stop(&stage);
    let longest = done.rsplit('=').next().and_then(|millis| millis.parse().ok()).map(Duration::from_millis);
    row("longest stall of a Linux guest, service away 0, 0, 1 and 3 s", &[longest.unwrap()]);
    assert!(longest.unwrap() < Duration::from_secs(3) + BOUND, "{done}");
}

/// When, by the appliance's own clock, the first initiator was let in after each of its starts.
fn logins(console: &str) -> Vec<Duration> {
    let mut times = Vec::new();
    for boot in console.split("INFO  kernel::start: clock").skip(1) {
        let line = boot.lines().find(|line| line.contains("logged in to iqn"));
        let stamp = line.and_then(|line| line.strip_prefix('[')?.split(']').next()?.trim().parse().ok());
        times.extend(stamp.map(Duration::from_secs_f64));
    }
    times
}

/// One row of the table: smallest, middle, largest.
fn row(what: &str, times: &[Duration]) {
    let mut times: Vec<u128> = times.iter().map(Duration::as_millis).collect();
    times.sort_unstable();
    let (Some(first), Some(last)) = (times.first(), times.last()) else { return };
    println!("| {what} | {first} | {} | {last} |", times[times.len() / 2]);
}

/// A read that waits until all is well.
fn read(session: &mut Session) -> Result<(), String> {
    loop {
        let tag = session.begin(lun(0), &read10(0, 8), &[], 4096);
        let answer = session.finish(tag, LIMIT)?;
        if answer.status == GOOD {
            return Ok(());
        }
    }
}

/// Logs in as soon as anybody can: a SYN that nobody heard is sent again after a second only, so it is given up before.
fn log_in(who: &Who) -> Session {
    let start = Instant::now();
    loop {
        let peer = Peer::connect_within(Duration::from_millis(50)).map_err(|error| error.to_string());
        match peer.and_then(|peer| Session::open_with(peer, who, &[])) {
            Ok(session) => return session,
            Err(reason) => assert!(start.elapsed() < LIMIT, "{reason}"),
        }
    }
}

fn recovery() {
    let mut service = Service::start(&Inside, 0, SIZE, |_| {});
    let who = Who::new("recovery", 0);
    let mut session = Session::open(&who);
    println!("| milliseconds | least | middle | most |");
    println!("|---|---|---|---|");
    for away in [0, 1, 5, 20].map(Duration::from_secs) {
        let measure = |_| {
            service.kill();
            let tag = session.begin(lun(0), &read10(0, 8), &[], 4096);
            sleep(away);
            service.restart(&Inside);
            let back = Instant::now();
            if session.finish(tag, LIMIT).unwrap().status != GOOD {
                read(&mut session).unwrap();
            }
            let time = back.elapsed();
            // A connection that has proved itself.
            sleep(Duration::from_secs(1));
            time
        };
        let times: Vec<_> = (0..if away.as_secs() > 1 { 2 } else { TIMES }).map(measure).collect();
        row(&format!("service away {} s: listening again to first read", away.as_secs()), &times);
        assert!(times.iter().all(|time| *time < BOUND), "{times:?}");
    }
    let measure = |_| {
        let mut qmp = Qmp::connect(&Inside.file("appliance.qmp"), LIMIT).unwrap();
        qmp.execute("stop", &json!({})).unwrap();
        qmp.execute("system_reset", &json!({})).unwrap();
        let start = Instant::now();
        qmp.execute("cont", &json!({})).unwrap();
        let mut session = log_in(&who);
        let login = start.elapsed();
        read(&mut session).unwrap();
        (login, start.elapsed())
    };
    let times: Vec<_> = (0..TIMES).map(measure).collect();
    let (logins, reads): (Vec<_>, Vec<_>) = times.into_iter().unzip();
    row("appliance reset to login accepted", &logins);
    row("appliance reset to first read", &reads);
    assert!(reads.iter().all(|time| *time < BOUND), "{reads:?}");
}
