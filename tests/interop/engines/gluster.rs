//! GlusterFS behind qemu-nbd.

use crate::engine::{Engine, SECOND, answers_alone, directly, ghost, host, place, possible, served, signal};
use crate::load::{Blocks, Load, timed};
use image_launch::disk::NBD;
use image_launch::net::Wire;
use rustix::process::Signal;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread::sleep;
use std::time::Duration;

const IMAGE: &str = "disk";

#[test]
fn a_gluster_image_survives_its_gateway_and_a_storage_daemon() {
    if !possible("gluster.sh", true) {
        return;
    }
    let (stage, _turn) = host(&[]);
    // It keeps off loopback addresses.
    let mut engine = Engine::start(&stage, "gluster.sh", &[&Wire::Service.here().to_string()]);
    engine.call(&stage.net, "image", &[IMAGE, "32M"]);
    let mut gateway = engine.gateway(&stage, "gateway", IMAGE, place(0));
    for write in ["write -P 2 0 64k", "write -f -P 3 0 64k"] {
        assert!(!answers_alone(&stage, &engine, place(0), write), "qemu-nbd answers `{write}` by itself");
    }
    directly(&stage.net, place(0), &["write -P 0 0 64k".to_string()]).unwrap();
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

#[test]
#[ignore = "takes a minute; --include-ignored runs it"]
fn a_fenced_gateway_host_never_writes_to_gluster_again_and_an_unfenced_one_does() {
    if !possible("gluster.sh", true) {
        return;
    }
    let (stage, _turn) = host(&[]);
    let engine = Engine::start(&stage, "gluster.sh", &[&Wire::Service.here().to_string()]);
    for (n, fenced) in [(1, true), (2, false)] {
        let image = format!("image{n}");
        engine.call(&stage.net, "image", &[&image, "32M"]);
        let (old_host, new_host) = (Ipv4Addr::new(10, 79, n, 2), Ipv4Addr::new(10, 79, 100 + n, 2));
        let (old_place, new_place) = (SocketAddrV4::new(old_host, NBD), SocketAddrV4::new(new_host, NBD));
        let old = engine.gateway_elsewhere(&stage, "elsewhere", &image, old_place);
        let switch = || {
            if fenced {
                engine.call(&stage.net, "fence", &[&old_host.to_string()]);
            }
            engine.gateway_elsewhere(&stage, "elsewhere", &image, new_place)
        };
        let (kept, took, _new) = ghost(&stage, (&old, old_place), new_place, switch);
        println!("gluster: fenced {fenced}, new gateway started and first write served after {took:.1?}");
        assert!(took < 5 * SECOND, "{took:?}");
        assert_eq!(
            kept, fenced,
            "with the fence the newer write must stay, without it the test must see it go"
        );
    }
}
