//! What is told is so, also where that is not plain to see.

use crate::Observation;
use crate::settle::{Verdict, verdict};
use agent_protocol::{Action, State, VolumeName};

#[test]
fn a_disk_that_the_hypervisor_still_has_is_not_detached_whatever_its_guest_does() {
    let volume: VolumeName = "d".parse().unwrap();
    let detach = Action::VolumeDetach { volume: volume.clone(), timeout_ms: 1000 };
    for state in [State::Pending, State::Running, State::Paused, State::Stopping] {
        let seen = Observation { volumes: Some(vec![volume.clone()]), ..Observation::of(state) };
        assert_eq!(verdict(&detach, State::Running, &seen), Verdict::MayCome, "{state}");
        let seen = Observation { volumes: Some(vec![]), ..seen };
        assert_eq!(verdict(&detach, State::Running, &seen), Verdict::Done, "{state}");
    }
    assert_eq!(verdict(&detach, State::Running, &Observation::of(State::Stopped)), Verdict::Done);
}
