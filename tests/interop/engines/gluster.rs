//! GlusterFS behind qemu-nbd.

use crate::engine::{Engine, host, place, served, signal};
use crate::load::{Blocks, Load, timed};
use image_launch::net::Wire;
use rustix::process::Signal;
use std::thread::sleep;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const IMAGE: &str = "disk";

#[test]
fn a_gluster_image_survives_its_gateway_and_a_storage_daemon() {
    let (stage, _turn) = host();
    // It keeps off loopback addresses.
    let mut engine = Engine::start(&stage, "gluster.sh", &[&Wire::Service.here().to_string()]);
    engine.call(&stage.net, "image", &[IMAGE, "32M"]);
    let mut gateway = engine.gateway(&stage, "gateway", IMAGE, place(0));
    served(&stage);
    let mut load = Load::start(&stage, Blocks::Once, 300, Duration::from_millis(30));
    load.reached(40);
    engine.kill(&stage, "brick.1");
    load.reached(160);
    signal(gateway.pid(), Signal::KILL);
    gateway.stop();
    let (gateway, back) = timed(|| engine.gateway(&stage, "gateway", IMAGE, place(0)));
    load.reached(220);
    engine.call::<&str>(&stage.net, "heal", &[]);
    let (written, stalls) = load.finish();
    println!("gluster, qemu-nbd killed: new gateway after {back:.1?}, longest writes {stalls:.1?}");
    assert!(stalls[0] < 10 * SECOND, "{stalls:?}");
    written.must_be_read(&stage);
    drop(gateway);
    // The brick that was away has what it missed: now another one may be.
    engine.call::<&str>(&stage.net, "heal", &[]);
    engine.kill(&stage, "brick.0");
    sleep(SECOND);
    let past = engine.gateway(&stage, "gateway", IMAGE, place(1));
    written.must_be_at(&stage, &format!("nbd://{}", place(1)));
    drop(past);
    engine.must_run();
}
