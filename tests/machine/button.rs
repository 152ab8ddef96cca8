//! The power button while the machine starts: whoever presses it presses it once, and perhaps early.

use crate::fixture::{Turn, script};
use image_launch::appliance::Kind;
use image_launch::disk::Server;
use image_launch::machine::Board;
use image_launch::stage::Stage;
use image_launch::wait;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// Less than the metadata service is asked for.
const SOON: Duration = Duration::from_secs(8);

#[test]
fn a_button_that_is_pressed_before_the_configuration_is_there_ends_the_machine() {
    let _turn = Turn::take();
    let mut script = script(Kind::Image(Board::Q35), 1 << 20, Server::QemuNbd);
    script.config = vec![("config.mmds".into(), "yes".into())];
    let mut stage = Stage::set(&script).unwrap();
    wait::until("a question for a document", LIMIT, || {
        Ok(stage.appliance.console().contains("asking the metadata service").then_some(()))
    })
    .unwrap();
    let mut qmp = stage.appliance.machine().unwrap().qmp().unwrap();
    qmp.execute("system_powerdown", &serde_json::json!({})).unwrap();
    let end = stage.appliance.process().wait(SOON);
    let console = stage.appliance.console();
    assert!(end.as_ref().is_ok_and(std::process::ExitStatus::success), "{end:?}\n{console}");
    assert_eq!(qmp.event("SHUTDOWN").unwrap()["data"]["reason"], "guest-shutdown");
    assert!(console.contains("asked to end"), "{console}");
}
