//! A machine that nobody wants anything of sleeps.

use crate::fixture::{script, stage_alone};
use image_launch::appliance::Kind;
use image_launch::disk::Server;
use image_launch::process;
use image_launch::stage::Stage;
use std::thread;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);
const SPAN: Duration = Duration::from_secs(11);

/// How often the appliance has gone to sleep so far, by its own count.
fn sleeps(stage: &Stage) -> u64 {
    let mut curl = stage.net.command("curl");
    curl.args(["-sS", "--noproxy", "*", "--max-time", "10"]);
    curl.arg(format!("http://{}/v1/metrics", stage.net.api()));
    let text = process::check(curl, LIMIT).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("corbel_stage_entries_total{stage=\"idle\"} "));
    line.unwrap_or_else(|| panic!("no count of the stage idle in:\n{text}")).parse().unwrap()
}

#[test]
fn with_a_disk_that_nobody_uses_it_wakes_for_the_heartbeat_and_little_else() {
    let (stage, _turn) = stage_alone(&script(Kind::default(), 1 << 20, Server::QemuNbd));
    thread::sleep(Duration::from_secs(3));
    let before = sleeps(&stage);
    thread::sleep(SPAN);
    let count = sleeps(&stage) - before;
    println!("{count} times in {SPAN:?}");
    // The disk's heartbeat comes every five seconds: a timer, the reply, and its acknowledgement. A question takes a few; the
    // rest is for what a host says to everybody on its networks.
    assert!(count <= 30, "{count} times in {SPAN:?}");
}
