//! The last resort: the process of a domain that libvirtd could not end in time.

use agent_protocol::Uuid;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;

/// Kill the QEMU that carries this UUID on its command line; its process id, if there was one and this agent may.
///
/// The process is held by a descriptor before its command line is read, so that it cannot have become another meanwhile.
pub(super) fn kill(uuid: Uuid) -> Option<u32> {
    let expected = format!("\0-uuid\0{uuid}\0");
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for pid in pids {
        let Some(process) = Pid::from_raw(pid) else { continue };
        let Ok(handle) = pidfd_open(process, PidfdFlags::empty()) else { continue };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_it = line.windows(expected.len()).any(|window| window == expected.as_bytes());
        if is_it && pidfd_send_signal(&handle, Signal::KILL).is_ok() {
            return u32::try_from(pid).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_the_process_that_carries_the_uuid_is_killed() {
        let spawn = |uuid: Uuid| {
            // It waits for its input, which ends with this test.
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "read line", "sh", "-uuid", &uuid.to_string(), "-end"]);
            command.stdin(std::process::Stdio::piped()).spawn().unwrap()
        };
        let bits = u128::from(std::process::id()) << 64;
        let (one, other) = (Uuid(bits | 1), Uuid(bits | 2));
        let (mut first, mut second) = (spawn(one), spawn(other));
        assert_eq!(kill(Uuid(bits | 3)), None);
        assert_eq!(kill(one), Some(first.id()));
        assert!(!first.wait().unwrap().success());
        assert!(second.try_wait().unwrap().is_none(), "the other one goes on");
        assert_eq!(kill(other), Some(second.id()));
        second.wait().unwrap();
    }
}
