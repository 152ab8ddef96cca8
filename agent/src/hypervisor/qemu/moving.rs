//! Moving a machine to another host while it runs, by QEMU's own stream: `MIGRATION.md` says why no two copies run.

use super::commands::{plain, with};
use super::life::Beginning;
use super::passage::{Coming, END_TIME, Leaving, Stage, remove_durably, status, waits, write_durably};
use super::qmp::{Qmp, QmpError};
use super::{Qemu, fault, private_directory};
use crate::hypervisor::migration::{Kind, Migration, Tls};
use crate::hypervisor::{Evidence, Fault, Machine};
use crate::locked;
use agent_protocol::{Failure, PeerName, Text};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long between two looks at how far it is. The guest may stand still for some ten times as long.
const PACE: Duration = Duration::from_millis(10);
/// How long the monitor has for each answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How long QEMU may take to halt before the last part, once the guest is held.
const SWITCH_TIME: Duration = Duration::from_secs(30);
/// How long the last part may take.
const FINISH_TIME: Duration = Duration::from_secs(60);
/// How long it may take to have it go on here.
const BACK_TIME: Duration = Duration::from_secs(5);
/// How long one that is called off may take to begin.
const BEGIN_TIME: Duration = Duration::from_secs(2);
/// How many machines are moved away at once. Each takes a thread for half an hour at most, and the others need some.
pub(super) const MOVES_MAX: usize = 16;
/// How much of the time is kept back for the last part.
const RESERVE: Duration = Duration::from_secs(10);
/// The disk that no guest sees, and its bitmap.
const GATE: &str = "corbel-gate";
/// How many bits the bitmap has. QEMU counts each as a byte that is left to send, and comes to an end when what is left can
/// be sent within the allowed downtime: a millisecond, until the guest is held. That is more than a network carries then.
const GATE_BITS: u64 = 1 << 24;
const GATE_GRANULE: u64 = 512;
/// The longest downtime that QEMU can be allowed, in milliseconds.
const DOWNTIME_MAX: u64 = 2_000_000;
/// What is turned on for a move and off again after it. A file that memory is saved to could not answer to the first.
const CAPABILITIES: [&str; 5] =
    ["return-path", "pause-before-switchover", "auto-converge", "dirty-bitmaps", "validate-uuid"];
/// The states in which no command of ours holds its guest: it runs, or is as something else has left it.
const OTHERWISE: [&str; 7] =
    ["running", "suspended", "io-error", "watchdog", "guest-panicked", "internal-error", "shutdown"];
/// What carries the keys.
const CREDENTIALS: &str = "corbel-migration";

/// Moves that are under way, and whether each is to be given up.
pub(super) type Moves = std::sync::Mutex<std::collections::BTreeMap<agent_protocol::Uuid, Arc<AtomicBool>>>;

/// How far a move is.
struct Progress {
    /// Bytes that are left to send, as far as QEMU knows.
    left: u64,
    /// How often it has looked what the guest has written meanwhile.
    rounds: u64,
    /// Bytes a second that the guest writes to.
    dirtied: u64,
    /// Bytes a second that are sent.
    sent: u64,
}

impl Progress {
    fn of(answer: &Value) -> Option<Self> {
        let ram = answer.get("ram")?;
        let number = |name: &str| ram.get(name).and_then(Value::as_u64).unwrap_or_default();
        let megabits = ram.get("mbps").and_then(Value::as_f64).unwrap_or_default();
        Some(Self {
            left: ram.get("remaining")?.as_u64()?,
            rounds: number("dirty-sync-count"),
            dirtied: number("dirty-pages-rate").saturating_mul(number("page-size")),
            sent: (megabits.clamp(0.0, 1e9) * 125_000.0) as u64,
        })
    }
}

fn failed(words: impl AsRef<str>) -> Fault {
    Fault::new(Failure::Hypervisor, words)
}

fn ask(qmp: &mut Qmp, command: Value) -> Result<Value, Fault> {
    qmp.until(Instant::now() + ANSWER_TIME);
    qmp.call(command).map_err(|error| fault(&error))
}

fn capabilities(on: bool) -> Value {
    let all: Vec<Value> =
        CAPABILITIES.iter().map(|name| json!({ "capability": name, "state": on })).collect();
    with("migrate-set-capabilities", json!({ "capabilities": all }))
}

/// The commands that make either end ready, in their order.
fn readiness(tls: Option<&Tls>, listens: bool) -> Vec<Value> {
    let node = json!({
        "driver": "null-co", "node-name": GATE, "size": GATE_BITS * GATE_GRANULE, "read-zeroes": true,
    });
    let mut all = vec![with("blockdev-add", node), capabilities(true)];
    if let Some(tls) = tls {
        let mut object = json!({
            "id": CREDENTIALS,
            "qom-type": match tls.kind { Kind::X509 => "tls-creds-x509", Kind::Psk => "tls-creds-psk" },
            "dir": tls.directory.to_string_lossy(),
            "endpoint": if listens { "server" } else { "client" },
        });
        if tls.kind == Kind::X509 {
            object["verify-peer"] = true.into();
        }
        all.push(with("object-add", object));
        all.push(with("migrate-set-parameters", json!({ "tls-creds": CREDENTIALS })));
    }
    all
}

/// The commands by which a machine leaves, after those of [`readiness`].
fn departure(migration: &Migration, to: SocketAddr) -> Vec<Value> {
    let bitmap = json!({ "node": GATE, "name": GATE, "granularity": GATE_GRANULE });
    let speed = u64::from(migration.mib_per_s) << 20;
    vec![
        with("block-dirty-bitmap-add", bitmap),
        with("migrate-set-parameters", json!({ "max-bandwidth": speed, "downtime-limit": 1 })),
        with("migrate", json!({ "uri": format!("tcp:{to}") })),
    ]
}

/// Let QEMU go on to the end.
pub(super) fn finish(qmp: &mut Qmp) -> Result<Value, QmpError> {
    qmp.call(with("migrate-continue", json!({ "state": "pre-switchover" })))
}

/// Take away what a move needs and nothing else does. What is not there need not be.
pub(super) fn tidy(qmp: &mut Qmp) -> Result<(), QmpError> {
    let usual = json!({ "downtime-limit": 300, "tls-creds": "" });
    for command in [
        with("block-dirty-bitmap-remove", json!({ "node": GATE, "name": GATE })),
        with("blockdev-del", json!({ "node-name": GATE })),
        capabilities(false),
        with("migrate-set-parameters", usual),
        with("object-del", json!({ "id": CREDENTIALS })),
    ] {
        if let Err(error @ (QmpError::Timeout | QmpError::Closed)) = qmp.call(command) {
            return Err(error);
        }
    }
    Ok(())
}

impl Qemu {
    fn migration(&self) -> Result<&Migration, Fault> {
        let none = || failed("the operator's file says nothing of moving machines");
        self.images.migration.as_ref().ok_or_else(none)
    }

    /// Have a process that waits for the machine to come.
    pub(super) fn await_arrival(&self, machine: &Machine, within: Duration) -> Result<Evidence, Fault> {
        let deadline = Instant::now() + within;
        let migration = self.migration()?;
        let none = || failed("the operator's file names no address on which machines are received");
        let address = migration.own(&machine.id).ok_or_else(none)?;
        if self.running(machine).is_some() {
            return Err(failed("it has a process already"));
        }
        let storage = |error: std::io::Error| Fault::new(Failure::Storage, format!("its directory: {error}"));
        let directory = self.own_directory(machine);
        private_directory(&directory).map_err(storage)?;
        // It stays whatever comes of it: its guest runs elsewhere.
        let bytes = serde_json::to_vec(&Coming::now()).map_err(|error| storage(error.into()))?;
        write_durably(&directory.join("incoming"), &bytes).map_err(storage)?;
        let process = self.spawn(machine, Beginning::Arriving, deadline)?;
        match self.listen(machine, migration, address, deadline) {
            Ok(()) => Ok(vec![Text::new(&format!(
                "process {} waits at {address} for {}, as query-migrate says",
                process.identity.pid, machine.uuid
            ))]),
            Err(fault) => {
                process.kill();
                process.wait(END_TIME);
                let words = process.last_words();
                self.remove_process(machine, &process);
                Err(Fault::new(fault.code, format!("{} {words}", fault.detail).trim_end()))
            }
        }
    }

    fn listen(
        &self,
        machine: &Machine,
        migration: &Migration,
        address: SocketAddr,
        deadline: Instant,
    ) -> Result<(), Fault> {
        let mut qmp = self.monitor_by(machine, deadline)?;
        let ask = |qmp: &mut Qmp, command| qmp.call(command).map_err(|error| fault(&error));
        for command in readiness(migration.tls.as_ref(), true) {
            ask(&mut qmp, command)?;
        }
        let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
        ask(&mut qmp, with("migrate-set-capabilities", events))?;
        ask(&mut qmp, with("migrate-incoming", json!({ "uri": format!("tcp:{address}") })))?;
        let progress = ask(&mut qmp, plain("query-migrate"))?;
        if waits(&progress) { Ok(()) } else { Err(failed("query-migrate does not say that it waits")) }
    }

    /// Move it. It is gone from here only when its peer has said that it has all of it.
    pub(super) fn move_to(
        &self,
        machine: &Machine,
        peer: &PeerName,
        within: Duration,
    ) -> Result<Evidence, Fault> {
        let migration = self.migration()?;
        let unknown = || failed(format!("there is no peer {peer} in the operator's file"));
        let to = migration.of(peer, &machine.id).ok_or_else(unknown)?;
        let given_up = Arc::new(AtomicBool::new(false));
        {
            let mut moves = locked(&self.moves);
            if moves.len() >= MOVES_MAX {
                return Err(failed(format!("{MOVES_MAX} machines are on their way, and no more go at once")));
            }
            moves.insert(machine.uuid, given_up.clone());
        }
        let moved = self.move_by(machine, migration, (peer, to), within, &given_up);
        locked(&self.moves).remove(&machine.uuid);
        moved
    }

    /// Have the move that is under way give up, if there is one. It may be about to begin, in another thread.
    pub(super) fn give_up(&self, machine: &Machine) {
        let until = Instant::now() + BEGIN_TIME;
        loop {
            if let Some(move_) = locked(&self.moves).get(&machine.uuid) {
                move_.store(true, Ordering::Release);
                return;
            }
            if Instant::now() >= until {
                return;
            }
            std::thread::sleep(PACE);
        }
    }

    fn move_by(
        &self,
        machine: &Machine,
        migration: &Migration,
        (peer, to): (&PeerName, SocketAddr),
        within: Duration,
        given_up: &AtomicBool,
    ) -> Result<Evidence, Fault> {
        let deadline = Instant::now() + within;
        let mut qmp = self.monitor(machine, ANSWER_TIME.min(within))?;
        let was = qmp.status().map_err(|error| fault(&error))?;
        if was != "running" {
            return Err(failed(format!("it is {was} and not running")));
        }
        let now = self.parts(machine)?.now;
        now.as_begun_anew(machine).map_err(|why| failed(format!("{why}; it stays here")))?;
        let leaving = |stage| Leaving { stage, peer: peer.to_string() };
        self.mark(machine, &leaving(Stage::Begun))?;
        let sent = self.send(&mut qmp, migration, to, deadline, given_up);
        let ready = sent.and_then(|held| self.mark(machine, &leaving(Stage::HandedOver)).map(|()| held));
        let held = match ready {
            Ok(held) => held,
            Err(fault) => {
                // Its peer has not the state of its devices, without which nobody runs it.
                self.call_back(&mut qmp).map_err(|error| {
                    let words = format!("{}; and it could not be let go on: {error}", fault.detail);
                    Fault::new(Failure::Timeout, words)
                })?;
                let _ = remove_durably(&self.own_directory(machine).join("moving"));
                return Err(fault);
            }
        };
        let mut evidence = self.hand_over(&mut qmp, peer, FINISH_TIME.min(within))?;
        let held = format!("its guest was held here for {} ms before that", held.elapsed().as_millis());
        evidence.push(Text::new(&held));
        drop(qmp);
        self.mark(machine, &leaving(Stage::Arrived))?;
        evidence.extend(self.end(machine, END_TIME)?);
        Ok(evidence)
    }

    /// Send all but the last part, and hold the guest before that; since when it is held.
    fn send(
        &self,
        qmp: &mut Qmp,
        migration: &Migration,
        to: SocketAddr,
        deadline: Instant,
        given_up: &AtomicBool,
    ) -> Result<Instant, Fault> {
        // What an attempt that was cut short may have left.
        qmp.until(deadline.min(Instant::now() + ANSWER_TIME));
        tidy(qmp).map_err(|error| fault(&error))?;
        let commands = readiness(migration.tls.as_ref(), false).into_iter().chain(departure(migration, to));
        for command in commands {
            ask(qmp, command)?;
        }
        let until = deadline.checked_sub(RESERVE).unwrap_or(deadline);
        await_rest(qmp, migration.downtime_ms, until, given_up)?;
        let held = Instant::now();
        hold(qmp)?;
        ask(qmp, with("migrate-set-parameters", json!({ "downtime-limit": DOWNTIME_MAX })))?;
        let until = (Instant::now() + SWITCH_TIME).min(deadline);
        loop {
            let progress = ask(qmp, plain("query-migrate"))?;
            match status(&progress) {
                "pre-switchover" => return Ok(held),
                "active" | "device" => pass(until, given_up)?,
                _ => return Err(broken_off(&progress)),
            }
        }
    }

    /// Send the last part. From here on it may run at its peer.
    fn hand_over(&self, qmp: &mut Qmp, peer: &PeerName, within: Duration) -> Result<Evidence, Fault> {
        let open = |words: &str| {
            // Whoever reads that must not believe that nothing has come of it.
            Fault::new(
                Failure::Timeout,
                format!("it was handed over to {peer}, which has not said that it has it: {words}"),
            )
        };
        let until = Instant::now() + within;
        qmp.until(until);
        finish(qmp).map_err(|error| open(&error.to_string()))?;
        loop {
            let progress = qmp.execute("query-migrate").map_err(|error| open(&error.to_string()))?;
            match status(&progress) {
                "completed" => {
                    let number =
                        |path: &str| progress.pointer(path).and_then(Value::as_u64).unwrap_or_default();
                    return Ok(vec![
                        Text::new(&format!("{peer} has said over the return path that it has all of it")),
                        Text::new(&format!(
                            "query-migrate says completed: {} bytes in {} ms",
                            number("/ram/transferred"),
                            number("/total-time")
                        )),
                    ]);
                }
                "pre-switchover" | "device" | "active" if Instant::now() < until => std::thread::sleep(PACE),
                other => return Err(open(&format!("query-migrate says {other:?}"))),
            }
        }
    }

    /// Stop sending, and let the guest go on as if nothing had been. Only for what was not handed over.
    pub(super) fn call_back(&self, qmp: &mut Qmp) -> Result<(), QmpError> {
        self.stop_sending(qmp)?;
        self.go_on(qmp)
    }

    /// Stop sending, if it is still sent; how far it had come.
    fn stop_sending(&self, qmp: &mut Qmp) -> Result<String, QmpError> {
        qmp.until(Instant::now() + BACK_TIME);
        // Refused where nothing is under way.
        match qmp.execute("migrate_cancel") {
            Ok(_) | Err(QmpError::Refused(_) | QmpError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        loop {
            let progress = qmp.execute("query-migrate")?;
            let status = status(&progress);
            if !matches!(status, "setup" | "active" | "device" | "pre-switchover" | "cancelling") {
                return Ok(status.to_owned());
            }
            std::thread::sleep(PACE);
        }
    }

    fn go_on(&self, qmp: &mut Qmp) -> Result<(), QmpError> {
        // Not all but "paused": for a moment it can be called otherwise, and goes on then as well.
        if !OTHERWISE.contains(&qmp.status()?.as_str()) {
            qmp.execute("cont")?;
        }
        // It goes on whether or not; the next move does it again.
        let _ = tidy(qmp);
        Ok(())
    }

    /// What has come of one that was handed over. Its peer gets a moment to say it if the last part is still on its way:
    /// nobody who has looked there knows better.
    fn outcome(&self, qmp: &mut Qmp, within: Duration) -> Result<String, QmpError> {
        let until = Instant::now() + within;
        while Instant::now() < until {
            match status(&qmp.execute("query-migrate")?) {
                "active" | "device" => std::thread::sleep(PACE),
                _ => break,
            }
        }
        self.stop_sending(qmp)
    }

    /// Let one that was handed over go on here, for somebody who knows that it does not run at its peer.
    pub(super) fn have_back(&self, machine: &Machine, within: Duration) -> Result<Evidence, Fault> {
        let storage = |error: std::io::Error| Fault::new(Failure::Storage, error.to_string());
        let leaving = self.leaving(machine).map_err(storage)?;
        let leaving = leaving.ok_or_else(|| failed("it was not handed over"))?;
        if leaving.stage == Stage::Arrived {
            return Err(failed(format!("{} has said that it has all of it", leaving.peer)));
        }
        let mut how = "its process had ended; it can be started".to_owned();
        if self.running(machine).is_some() {
            let mut qmp = self.monitor(machine, within)?;
            if self.outcome(&mut qmp, within / 2).map_err(|error| fault(&error))? == "completed" {
                self.mark(machine, &Leaving { stage: Stage::Arrived, ..leaving.clone() })?;
                return Err(failed(format!("{} has said by now that it has all of it", leaving.peer)));
            }
            self.go_on(&mut qmp).map_err(|error| fault(&error))?;
            let now = qmp.status().map_err(|error| fault(&error))?;
            if now != "running" {
                return Err(failed(format!("after cont its state is {now} and not running")));
            }
            how = "cont; query-status says running".into();
        }
        remove_durably(&self.own_directory(machine).join("moving")).map_err(storage)?;
        Ok(vec![Text::new(&how)])
    }
}

/// Hold the guest, and see that it is held by that. One that sleeps or is held otherwise QEMU leaves as it is: it could let
/// such a one go on by itself, and would send it as something that nothing at its peer lets go on.
fn hold(qmp: &mut Qmp) -> Result<(), Fault> {
    ask(qmp, plain("stop"))?;
    // It must still be sending. If the guest was about to be reset, that is over with this answer, too.
    let progress = ask(qmp, plain("query-migrate"))?;
    if status(&progress) != "active" {
        return Err(broken_off(&progress));
    }
    match qmp.status().map_err(|error| fault(&error))?.as_str() {
        "paused" => Ok(()),
        other => Err(failed(format!("it is {other} by now and cannot be held; it stays here"))),
    }
}

/// Wait until what is left takes no longer than the guest may stand still.
fn await_rest(qmp: &mut Qmp, downtime_ms: u32, until: Instant, given_up: &AtomicBool) -> Result<(), Fault> {
    let (mut fastest, mut rounds, mut since) = (0, 0, Instant::now());
    loop {
        let answer = ask(qmp, plain("query-migrate"))?;
        match status(&answer) {
            // It connects.
            "setup" => {}
            "active" => {
                let progress =
                    Progress::of(&answer).ok_or_else(|| failed("QEMU does not say how far it is"))?;
                fastest = fastest.max(progress.sent);
                if progress.rounds != rounds {
                    (rounds, since) = (progress.rounds, Instant::now());
                }
                // What the guest has written to since QEMU last looked is not among what is left.
                let passed = since.elapsed().as_millis().min(u128::from(u32::MAX)) as u64;
                let unseen = progress.dirtied.saturating_mul(passed) / 1000;
                let fits = fastest.saturating_mul(downtime_ms.into()) / 1000;
                if rounds >= 2 && progress.left.saturating_add(unseen) <= fits {
                    return Ok(());
                }
            }
            // The gate holds QEMU back from this; should another version not heed it, the guest goes on here.
            "pre-switchover" | "device" | "completed" => {
                return Err(failed("QEMU came to the end before the guest could be held"));
            }
            _ => return Err(broken_off(&answer)),
        }
        pass(until, given_up)?;
    }
}

/// Let a moment pass, if there is time and nobody has called it off.
fn pass(until: Instant, given_up: &AtomicBool) -> Result<(), Fault> {
    if given_up.load(Ordering::Acquire) {
        return Err(failed("it was called off by another command; it goes on here"));
    }
    if Instant::now() >= until {
        return Err(failed("it did not come to rest in time: the guest writes faster than it can be sent"));
    }
    std::thread::sleep(PACE);
    Ok(())
}

fn broken_off(progress: &Value) -> Fault {
    let words = progress.get("error-desc").and_then(Value::as_str).unwrap_or("QEMU does not say why");
    let words: String = words.chars().take(200).collect();
    failed(format!("it broke off before it was handed over, and goes on here: {words}"))
}
