//! Scenarios that need sockets of their own on the two networks: the test program starts itself again inside them.

use crate::{cells, hostile, network, offloads, power, recovery, reservations, service, several, traces};
use image_launch::process;
use image_launch::stage::Stage;
use std::env;
use std::time::Duration;

/// Names the scenario to the program inside.
pub(crate) const SCENARIO: &str = "CORBEL_SCENARIO";
/// No scenario takes as long, on any machine.
const LIMIT: Duration = Duration::from_secs(180);

/// Plays the scenario of that name, or those with `+` between them at the same time, inside the networks of `stage`, where it must succeed; the appliance must be there
/// and well afterwards. Answers what the scenario printed.
pub(crate) fn play(stage: &mut Stage, scenario: &str) -> String {
    assert!(!stage.net.is_user_mode(), "hostile peers need TAP devices: run this as root");
    let mut command = stage.net.command(env::current_exe().unwrap());
    command.args(["inside::inside", "--exact", "--ignored", "--nocapture"]).env(SCENARIO, scenario);
    command.env(service::FOLDER, stage.scratch.path());
    let output = process::run(command, LIMIT).unwrap();
    let console = stage.appliance.console();
    let alive = stage.appliance.process().must_run();
    let report = || {
        // What the scenario says comes last: who shortens a log leaves its end.
        let said = process::last_lines(&output.text(), 60);
        format!("the appliance:\n{}\n{scenario}:\n{said}\n", process::last_lines(&console, 40))
    };
    assert_eq!(output.code, 0, "{}", report());
    assert!(alive.is_ok() && !stage.appliance.has_panicked(), "{}", report());
    println!("{}: {}", stage.describe(), output.text());
    output.text()
}

#[test]
#[ignore = "other tests start it inside the networks that they made"]
fn inside() {
    // Asked for by hand, there is nothing to play.
    let Ok(name) = env::var(SCENARIO) else { return };
    std::thread::scope(|scope| {
        for name in name.split('+') {
            let all = [
                hostile::SCENARIOS,
                network::SCENARIOS,
                cells::SCENARIOS,
                recovery::SCENARIOS,
                offloads::SCENARIOS,
                power::SCENARIOS,
                traces::SCENARIOS,
                several::SCENARIOS,
                reservations::SCENARIOS,
            ];
            let mut scenarios = all.into_iter().flatten();
            let (_, scenario) = scenarios.find(|(known, _)| *known == name).unwrap();
            scope.spawn(scenario);
        }
    });
}
