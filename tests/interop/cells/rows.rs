//! The rows: what goes wrong, and what must come of it in each column.

use super::worker::Column;
use super::world::Expect::{self, Damage, Error, Pass, Recover};
use super::world::{Way, World, lose};
use crate::hostile::peer::{Peer, Who};
use crate::hostile::session::Session;
use image_launch::net::Wire;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tests_service::Options;
use tests_service::medium::Cache;

/// One row.
pub(crate) struct Row {
    /// The scenario's name.
    pub(crate) scenario: &'static str,
    /// By column; `None` is played in simulation only, or makes no sense.
    pub(crate) cells: [Option<Expect>; 7],
    /// Whether the initiators and the host network are as always, so that pings and logins must be answered at once.
    pub(crate) answers_at_once: bool,
}

const ALL_PASS: [Option<Expect>; 7] = [Some(Pass); 7];
const ALL_RECOVER: [Option<Expect>; 7] = [Some(Recover); 7];
/// Read and write errors of the medium, which it has.
const MEDIUM: Expect = Error(&[(3, 0x11, 0), (3, 0x0c, 0)]);
/// What may be said of an export that is not what it was: write protected, not ready (by itself soon, or until somebody acts),
/// beyond its end.
const CHANGED: Expect = Error(&[(7, 0x27, 0), (2, 4, 0), (2, 4, 1), (2, 4, 2), (2, 4, 3), (5, 0x21, 0)]);

pub(crate) const ROWS: &[Row] = &[
    Row { scenario: "killed", cells: ALL_PASS, answers_at_once: true },
    Row { scenario: "power_loss", cells: ALL_PASS, answers_at_once: true },
    Row {
        scenario: "hang",
        cells: [
            Some(Pass),
            Some(Recover),
            Some(Recover),
            Some(Pass),
            Some(Recover),
            Some(Recover),
            Some(Recover),
        ],
        answers_at_once: true,
    },
    Row {
        scenario: "ghosts",
        cells: [None, None, Some(Recover), Some(Recover), Some(Recover), Some(Recover), None],
        answers_at_once: true,
    },
    Row {
        scenario: "nbdkit",
        cells: [
            Some(Pass),
            Some(MEDIUM),
            Some(Recover),
            Some(Pass),
            Some(MEDIUM),
            Some(Recover),
            Some(Recover),
        ],
        answers_at_once: true,
    },
    Row { scenario: "half_open", cells: ALL_RECOVER, answers_at_once: true },
    // A ping may be lost three times in a row, which is longer than an initiator waits for its answer.
    Row { scenario: "weather", cells: ALL_RECOVER, answers_at_once: false },
    Row { scenario: "host_cut", cells: ALL_RECOVER, answers_at_once: false },
    Row {
        scenario: "initiators_die",
        cells: [
            None,
            Some(Recover),
            Some(Recover),
            Some(Recover),
            Some(Recover),
            Some(Recover),
            Some(Recover),
        ],
        answers_at_once: false,
    },
    Row {
        scenario: "twins",
        cells: [
            None,
            Some(Recover),
            Some(Recover),
            Some(Recover),
            Some(Recover),
            Some(Recover),
            Some(Recover),
        ],
        answers_at_once: false,
    },
    Row { scenario: "reset", cells: ALL_RECOVER, answers_at_once: false },
    Row { scenario: "standstill", cells: ALL_RECOVER, answers_at_once: false },
    Row {
        scenario: "errors",
        cells: [None, Some(MEDIUM), Some(MEDIUM), None, Some(Recover), Some(MEDIUM), None],
        answers_at_once: true,
    },
    Row {
        scenario: "lies",
        cells: [None, Some(Recover), Some(Recover), None, Some(Recover), Some(Recover), None],
        answers_at_once: true,
    },
    Row { scenario: "torn", cells: [None, None, Some(Pass), None, None, None, None], answers_at_once: true },
    Row {
        scenario: "damage",
        cells: [None, Some(Damage), None, None, None, None, None],
        answers_at_once: true,
    },
    Row { scenario: "changes", cells: [Some(CHANGED); 7], answers_at_once: true },
];

/// The scenarios by their names.
pub(crate) const SCENARIOS: &[(&str, fn())] = &[
    ("killed", killed),
    ("power_loss", power_loss),
    ("hang", hang),
    ("ghosts", ghosts),
    ("nbdkit", super::nbdkit::play),
    ("half_open", half_open),
    ("weather", weather),
    ("host_cut", host_cut),
    ("initiators_die", initiators_die),
    ("twins", twins),
    ("reset", reset),
    ("standstill", standstill),
    ("errors", errors),
    ("lies", lies),
    ("torn", torn),
    ("damage", damage),
    ("changes", changes),
];

/// The row of that scenario.
pub(crate) fn row(scenario: &str) -> &'static Row {
    ROWS.iter().find(|row| row.scenario == scenario).expect("every scenario is a row")
}

fn play(scenario: &str, change: impl Fn(&mut Options), fault: impl FnOnce(&mut World)) {
    World::play(row(scenario), change, fault);
}

/// Some of what is not flushed is on the medium all the same.
fn volatile(options: &mut Options) {
    options.cache = Cache::Volatile { spill: 30 };
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn killed() {
    play(
        "killed",
        |options| options.cache = Cache::None,
        |world| {
            for _ in 0..3 {
                world.kill_services(Duration::from_millis(500));
                sleep(seconds(2));
            }
        },
    );
}

fn power_loss() {
    play("power_loss", volatile, |world| {
        for _ in 0..3 {
            world.kill_services(Duration::from_millis(500));
            sleep(seconds(2));
        }
    });
}

/// Longer than commands are held, so that they are told to come again.
fn hang() {
    play("hang", volatile, |world| {
        world.order("hang 32000");
        sleep(seconds(32));
    });
}

/// Services that know of no fence, cut connections, and execute what these brought some seconds later: a newer write of
/// the same block has to wait for it.
fn ghosts() {
    let plain = |options: &mut Options| {
        volatile(options);
        options.knows_writers = false;
        options.tells_incarnation = false;
    };
    play("ghosts", plain, |world| {
        world.order("late 4000");
        for _ in 0..2 {
            world.order("delay write 60000");
            sleep(Duration::from_millis(500));
            world.order("delay write 0");
            world.order("drop");
            sleep(seconds(6));
        }
        let late: u64 = world.services.iter().map(|service| service.figure("late")).sum();
        assert!(late >= 2, "{late} ghosts are not enough");
    });
}

fn half_open() {
    play("half_open", volatile, |world| {
        world.cut(Wire::Service, &[Way::Out], seconds(12));
        sleep(seconds(3));
        world.cut(Wire::Service, &[Way::In], seconds(12));
    });
}

fn weather() {
    play("weather", volatile, |_| {
        lose(10, seconds(15));
    });
}

fn host_cut() {
    play("host_cut", volatile, |world| {
        world.cut(Wire::Host, &[Way::In, Way::Out], seconds(1));
        sleep(seconds(2));
        world.cut(Wire::Host, &[Way::In, Way::Out], seconds(30));
    });
}

fn initiators_die() {
    play("initiators_die", volatile, |world| {
        for _ in 0..20 {
            world.row.deaths.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_millis(250));
        }
    });
}

/// Somebody with the name and the ISID of the initiator logs in, again and again; then it stops, and the initiator must
/// have its disk again.
fn twins() {
    play("twins", volatile, |_| {
        let end = Instant::now() + seconds(6);
        while Instant::now() < end {
            for (n, column) in Column::ALL.into_iter().enumerate().skip(1) {
                let who = Who::new(&format!("cell-{}", column.name()), n);
                let peer = Peer::connect_within(seconds(5)).map_err(|error| error.to_string());
                // That its place was taken meanwhile is the point.
                let _ = peer.and_then(|peer| Session::open_silently(peer, &who, &[]));
            }
            sleep(Duration::from_millis(200));
        }
    });
}

fn reset() {
    play("reset", volatile, |world| {
        for _ in 0..2 {
            world.qmp(&["stop", "system_reset", "cont"]);
            sleep(seconds(6));
        }
    });
}

fn standstill() {
    play("standstill", volatile, |world| {
        world.qmp(&["stop"]);
        sleep(seconds(20));
        world.qmp(&["cont"]);
    });
}

fn errors() {
    play("errors", volatile, |world| {
        for (code, count) in [("EIO", 3), ("ENOSPC", 4), ("ENOMEM", 4), ("ESHUTDOWN", 1), ("EIO", 1)] {
            world.order_of(Column::Read, &format!("fail read {count} {code} after 3"));
            world.order_of(Column::Write, &format!("fail write {count} {code} after 5"));
            world.order_of(Column::Flush, &format!("fail flush {count} {code} drop"));
            world.order_of(Column::Abort, &format!("fail write {count} {code} after 2"));
            sleep(seconds(3));
        }
    });
}

fn lies() {
    play("lies", volatile, |world| {
        for lie in ["short", "extra", "cookie", "nothing"] {
            let aims = [
                (Column::Read, "read"),
                (Column::Write, "write"),
                (Column::Flush, "flush"),
                (Column::Abort, "write"),
            ];
            for (column, aim) in aims {
                // A flush may take minutes, so that one without an answer is not missed before.
                if (column, lie) != (Column::Flush, "nothing") {
                    world.order_of(column, &format!("lie {aim} {lie}"));
                }
            }
            sleep(seconds(4));
        }
        sleep(seconds(12));
    });
}

fn torn() {
    play("torn", volatile, |world| {
        for sectors in [1, 3, 7] {
            let service = &mut world.services[Column::Write as usize];
            service.order(&format!("torn {sectors} 5"));
            let start = Instant::now();
            while service.runs() {
                assert!(start.elapsed() < seconds(10), "no write came");
                sleep(Duration::from_millis(5));
            }
            service.restart(&crate::service::Inside);
            sleep(seconds(1));
        }
    });
}

fn damage() {
    play("damage", volatile, |world| {
        world.row.may_damage.store(true, Ordering::SeqCst);
        for lie in ["flipped", "misdirected"] {
            world.order_of(Column::Read, &format!("lie read {lie}"));
            sleep(seconds(1));
        }
        world.row.may_damage.store(false, Ordering::SeqCst);
    });
}

/// Each export becomes another for some seconds, with the reconnection that shows it, and then is again what it was.
fn changes() {
    play("changes", volatile, |world| {
        let changes = [
            ("size 2097152", "size 2097152"),
            ("pretend 65536", "pretend 1048576"),
            ("readonly on", "readonly off"),
            ("name other", "name disk"),
            ("pretend 65536", "pretend 1048576"),
            ("readonly on", "readonly off"),
            ("name other", "name disk"),
        ];
        for (column, (change, _)) in Column::ALL.into_iter().zip(changes) {
            world.order_of(column, change);
            world.order_of(column, "drop");
        }
        sleep(seconds(4));
        for (column, (_, back)) in Column::ALL.into_iter().zip(changes) {
            world.order_of(column, back);
            world.order_of(column, "drop");
        }
        sleep(seconds(2));
    });
}
