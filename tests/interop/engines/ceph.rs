//! Ceph RBD behind qemu-nbd and behind nbdkit.

use crate::engine::{Engine, SECOND, Way, answers_alone, ghost, host, place, possible, served, signal};
use crate::load::{Blocks, Load, timed};
use image_launch::stage::Stage;
use rustix::process::Signal;
use std::thread::sleep;
use std::time::Duration;

const IMAGE: &str = "disk";

fn cluster(stage: &Stage) -> Engine {
    let engine = Engine::start(stage, "ceph.sh", &[]);
    engine.call(&stage.net, "image", &[IMAGE, "32M"]);
    engine
}

#[test]
fn a_ceph_image_survives_its_gateway_and_a_storage_daemon() {
    if !possible("ceph.sh", false) {
        return;
    }
    let (stage, _turn) = host(&[]);
    let mut engine = cluster(&stage);
    let mut gateway = engine.gateway(&stage, "gateway", IMAGE, place(0));
    served(&stage);
    let writes = 300;
    let mut load = Load::start(&stage, Blocks::Again, writes, Duration::from_millis(30));
    load.reached(40);
    engine.kill(&stage, "osd.1");
    load.reached(100);
    let _osd = engine.begin(&stage, "osd", &["1"]);
    load.reached(160);
    signal(gateway.pid(), Signal::KILL);
    gateway.stop();
    sleep(SECOND);
    // The dead one still holds the lock, and would be waited for until its watch is over.
    let (gateway, back) = timed(|| engine.gateway(&stage, "takeover", IMAGE, place(0)));
    let (written, stalls) = load.finish();
    println!("ceph, qemu-nbd killed: new gateway after 1 s + {back:.1?}, longest write {:.1?}", stalls[0]);
    // One write was in the dead gateway's hands. Nothing told the appliance that it is fenced, so a newer write to the
    // same place waits until that one can be executed no more.
    assert!(stalls[0] < 40 * SECOND && stalls[1] < 10 * SECOND, "{stalls:?}");
    engine.call::<&str>(&stage.net, "clean", &[]);
    written.must_be_read(&stage);
    drop(gateway);
    let past = engine.gateway(&stage, "nbdkit", IMAGE, place(1));
    written.must_be_at(&stage, &format!("nbd://{}", place(1)));
    drop(past);
    engine.must_run();
}

#[test]
fn a_second_gateway_to_a_ceph_image_takes_over_within_five_seconds() {
    if !possible("ceph.sh", false) {
        return;
    }
    let (stage, _turn) = host(&[place(1)]);
    let mut engine = cluster(&stage);
    let first = engine.gateway(&stage, "nbdkit", IMAGE, place(10));
    let _second = engine.gateway(&stage, "nbdkit", IMAGE, place(11));
    let mut ways = [Way::new(&stage, place(0), place(10)), Way::new(&stage, place(1), place(11))];
    served(&stage);
    // A connection that is lost earlier is one more failed try to the appliance, and it has made some by now.
    sleep(5 * SECOND);
    let mut load = Load::start(&stage, Blocks::Once, 360, Duration::from_millis(30));
    load.reached(40);
    // Killed, and away: the second is the only way.
    signal(first.pid(), Signal::KILL);
    ways[0].cut();
    load.reached(80);
    drop(first);
    let _first = engine.gateway(&stage, "nbdkit", IMAGE, place(10));
    ways[0].open(&stage);
    // Alive, but out of reach; and later back, when the other one is out of reach.
    ways[1].cut();
    load.reached(200);
    ways[1].open(&stage);
    ways[0].cut();
    let (written, stalls) = load.finish();
    println!("ceph, nbdkit: longest writes over three switch-overs {stalls:.1?}");
    assert!(stalls[0] < 5 * SECOND, "{stalls:?}");
    written.must_be_read(&stage);
    written.must_be_at(&stage, &format!("nbd://{}", place(10)));
    engine.must_run();
}

/// What a frozen gateway does after another one has taken over: whether it leaves alone what that one wrote.
fn leaves_alone(stage: &Stage, engine: &Engine, n: u16, first: &str, second: &str) -> bool {
    let image = format!("image{n}");
    engine.call(&stage.net, "image", &[&image, "32M"]);
    let (old_place, new_place) = (place(10 + 2 * n), place(11 + 2 * n));
    let old = engine.gateway(stage, first, &image, old_place);
    let switch = || engine.gateway(stage, second, &image, new_place);
    let (kept, took, _new) = ghost(stage, (&old, old_place), new_place, switch);
    println!("ceph: {first} frozen, {second} started and first write served after {took:.1?}");
    assert!(took < 5 * SECOND, "{took:?}");
    kept
}

#[test]
#[ignore = "takes a minute; --include-ignored runs it"]
fn a_fenced_gateway_never_writes_again_and_an_unfenced_one_does() {
    if !possible("ceph.sh", false) {
        return;
    }
    let (stage, _turn) = host(&[]);
    let engine = Engine::start(&stage, "ceph.sh", &[]);
    let pairs = [("nbdkit", "nbdkit"), ("gateway", "takeover"), ("gateway", "nbdkit")];
    for (n, (first, second)) in (0..).zip(pairs) {
        assert!(
            leaves_alone(&stage, &engine, n, first, second),
            "{first} wrote after {second} had taken over"
        );
    }
    // The twin, without the fence: a test that finds no ghost here would prove nothing above.
    assert!(!leaves_alone(&stage, &engine, 9, "gateway", "gateway"), "no ghost came, so nothing was proven");
}

#[test]
#[ignore = "takes a minute; --include-ignored runs it"]
fn what_a_gateway_to_ceph_has_answered_is_on_the_storage_daemons() {
    if !possible("ceph.sh", false) {
        return;
    }
    let (stage, _turn) = host(&[]);
    let engine = cluster(&stage);
    for verb in ["gateway", "nbdkit"] {
        let gateway = engine.gateway(&stage, verb, IMAGE, place(1));
        for write in ["write -P 2 0 64k", "write -f -P 3 0 64k"] {
            assert!(!answers_alone(&stage, &engine, place(1), write), "{verb} answers `{write}` by itself");
        }
        drop(gateway);
    }
}

#[test]
#[ignore = "takes a minute; --include-ignored runs it"]
fn a_ceph_image_without_enough_storage_daemons_waits_and_goes_on() {
    if !possible("ceph.sh", false) {
        return;
    }
    let (stage, _turn) = host(&[]);
    let mut engine = cluster(&stage);
    let _gateway = engine.gateway(&stage, "nbdkit", IMAGE, place(0));
    served(&stage);
    let mut load = Load::start(&stage, Blocks::Once, 100, Duration::from_millis(30));
    load.reached(30);
    engine.kill(&stage, "osd.0");
    engine.kill(&stage, "osd.2");
    sleep(15 * SECOND);
    let _osds = ["0", "2"].map(|n| engine.begin(&stage, "osd", &[n]));
    let (written, stalls) = load.finish();
    println!("ceph, two of three OSDs away for 15 s: longest writes {stalls:.1?}");
    written.must_be_read(&stage);
    engine.must_run();
}
