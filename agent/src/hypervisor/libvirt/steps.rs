//! The steps: what is asked before, what is done, and what is seen afterwards that proves it.

mod snapshots;

use super::described::Described;
use super::request::{Domain, Request, requests};
use super::rpc::{Answer, RpcError};
use super::session::{Control, Figure, Session};
use super::{
    BALLOON, BUSY, BUSY_TIME, Libvirt, PAUSED, RUNNING, SHUT_OFF, SLEEPS, document, process, unanswered,
    unsent,
};
use crate::hypervisor::{ASLEEP, Evidence, Fault, Machine, Step};
use crate::locked;
use agent_protocol::{Failure, Size, Text, VolumeName};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long libvirtd has to end a domain before its process is killed.
const DESTROY_TIME: Duration = Duration::from_secs(2);
/// How long between two looks at what must come about by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long the appliance has to take a connection.
const PORTAL_TIME: Duration = Duration::from_secs(1);
/// There is no such device (`VIR_ERR_DEVICE_MISSING`).
const DEVICE_MISSING: i32 = 99;
/// Its memory came from where it was saved (`VIR_DOMAIN_RUNNING_RESTORED`).
const RESTORED: i32 = 3;

/// A domain at work.
struct Work<'a> {
    session: Session,
    machine: &'a Machine,
    domain: Domain,
    now: Described,
    deadline: Instant,
    /// Something has been asked for that changes the domain.
    acted: bool,
}

fn cannot(what: impl AsRef<str>) -> Fault {
    Fault::new(Failure::Hypervisor, what)
}

fn seen(what: impl AsRef<str>) -> Evidence {
    vec![Text::new(what.as_ref())]
}

impl Libvirt {
    pub(super) fn carry_out(
        &self,
        machine: &Machine,
        step: &Step,
        deadline: Instant,
    ) -> Result<Evidence, Fault> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut session = self.open(left).map_err(unsent)?;
        let found = self.find(&mut session, machine)?;
        let (domain, now) = match (found, step) {
            (Some(found), _) => found,
            (None, Step::Start | Step::Snapshot(_)) => (blank(machine), Described::default()),
            (None, Step::End) => return Ok(seen("libvirtd has no such domain")),
            (None, Step::Resize(_)) => return Ok(seen("it is defined anew when it is started")),
            (None, _) => return Err(Fault::new(Failure::Ended, "libvirtd has no such domain")),
        };
        let exists = !domain.name.is_empty();
        let mut work = Work { session, machine, domain, now, deadline, acted: false };
        let (state, _) = if exists { work.state()? } else { (SHUT_OFF, 0) };
        match step {
            Step::End => return self.end(work, state),
            Step::Start => return self.start(work, step, exists, state),
            Step::Restore => return self.restore(work, state),
            Step::Resize(_) if state == SHUT_OFF => {
                return Ok(seen("it is defined anew when it is started"));
            }
            Step::Snapshot(_) => self.prepare_snapshot(&mut work, state)?,
            Step::Revert(_) => {}
            _ if state == SHUT_OFF => return Err(Fault::new(Failure::Ended, "it does not run")),
            _ => {}
        }
        if state != SHUT_OFF {
            work.must_listen()?;
        }
        if matches!(step, Step::AttachVolume(_)) {
            self.reach_portal(deadline)?;
        }
        let requests = requests(machine, step, &self.section, &work.now)?;
        match step {
            Step::Pause => work.drive(&requests, PAUSED),
            Step::Resume | Step::Reset => {
                let expected = if *step == Step::Resume { RUNNING } else { state };
                work.drive(&requests, expected)
            }
            Step::Save if state == SLEEPS => Err(cannot(ASLEEP)),
            Step::Save => self.save(work, &requests),
            Step::Resize(size) => work.resize(&requests, *size),
            Step::AttachVolume(_) | Step::AttachNic(_) => work.attach(step, &requests),
            Step::DetachVolume(_) | Step::DetachNic(_) => work.detach(step, &requests),
            Step::UpdateNic(name, link) => {
                work.all(&requests)?;
                match work.look()?.nics.get(name) {
                    Some(nic) if nic.link == *link => Ok(seen("virDomainUpdateDeviceFlags; its cable is so")),
                    _ => Err(cannot("libvirtd has not changed the cable")),
                }
            }
            Step::ResizeVolume(name) => work.resize_volume(name),
            Step::Revert(name) => work.revert(name, state, &self.section),
            // What remains is one call that proves itself: the power button, and a snapshot.
            _ => {
                work.all(&requests)?;
                Ok(seen(format!("{} was accepted", names(&requests))))
            }
        }
    }

    fn start(&self, mut work: Work<'_>, step: &Step, exists: bool, state: i32) -> Result<Evidence, Fault> {
        if state != SHUT_OFF {
            locked(&self.watched).insert(work.machine.uuid);
            return match state {
                RUNNING => Ok(seen("it runs already")),
                PAUSED => work.drive(&[Request::Resume], RUNNING),
                _ => Err(cannot(format!("its domain is in state {state}"))),
            };
        }
        if exists && work.has_saved_memory()? {
            // A start would go on from there, or lose it.
            return Err(cannot("it has saved memory, which can be restored, or given up by terminating it"));
        }
        if !work.machine.volumes.is_empty() {
            self.reach_portal(work.deadline)?;
        }
        self.make_disks(work.machine, work.deadline)?;
        let requests = requests(work.machine, step, &self.section, &work.now)?;
        locked(&self.watched).insert(work.machine.uuid);
        let outcome = work.define_and_start(&requests);
        if outcome.is_err() {
            self.unwatch_unless_running(&mut work);
        }
        outcome
    }

    fn restore(&self, mut work: Work<'_>, state: i32) -> Result<Evidence, Fault> {
        if state == RUNNING {
            return Ok(seen("it runs already"));
        }
        if state != SHUT_OFF || !work.has_saved_memory()? {
            // Started without it, it would boot.
            return Err(cannot("it has no saved memory"));
        }
        locked(&self.watched).insert(work.machine.uuid);
        let outcome = work.all(&[Request::Create]).and_then(|()| work.state());
        match outcome {
            Ok((RUNNING, RESTORED)) => Ok(seen("virDomainCreateWithFlags; it runs from its saved memory")),
            Ok((state, why)) => {
                Err(cannot(format!("libvirtd did not restore it: state {state}, reason {why}")))
            }
            Err(fault) => {
                self.unwatch_unless_running(&mut work);
                Err(fault)
            }
        }
    }

    /// See whether the appliance takes connections. While QEMU waits for it, it does nothing else: neither its guest nor its
    /// monitor goes on.
    fn reach_portal(&self, deadline: Instant) -> Result<(), Fault> {
        let Some(portal) = self.section.portal else { return Ok(()) };
        let left = deadline.saturating_duration_since(Instant::now()).min(PORTAL_TIME);
        TcpStream::connect_timeout(&portal, left.max(LOOK_AGAIN))
            .map(drop)
            .map_err(|error| cannot(format!("the portal {portal} takes no connections: {error}")))
    }

    fn unwatch_unless_running(&self, work: &mut Work<'_>) {
        // The old connection may still owe an answer.
        if let Ok(session) = self.open(DESTROY_TIME) {
            work.session = session;
        }
        // What cannot be seen may run.
        if matches!(work.state(), Ok((SHUT_OFF, _))) {
            locked(&self.watched).remove(&work.machine.uuid);
        }
    }

    fn save(&self, mut work: Work<'_>, requests: &[Request]) -> Result<Evidence, Fault> {
        work.all(requests)?;
        let (state, _) = work.state()?;
        let saved = work.has_saved_memory()?;
        if state != SHUT_OFF || !saved {
            return Err(cannot(format!("its memory is not saved: state {state}")));
        }
        locked(&self.watched).remove(&work.machine.uuid);
        Ok(seen("virDomainManagedSave; libvirtd has its memory and nothing of it runs"))
    }

    fn end(&self, mut work: Work<'_>, state: i32) -> Result<Evidence, Fault> {
        let uuid = work.machine.uuid;
        let mut how = "it did not run".to_owned();
        if state != SHUT_OFF {
            work.session.until(work.deadline.min(Instant::now() + DESTROY_TIME));
            how = match work.ask(&Request::Destroy) {
                Ok(_) | Err(RpcError::Refused { .. }) => "virDomainDestroyFlags".to_owned(),
                // A hung process hears no request to end, and libvirtd is patient.
                Err(RpcError::Timeout) => {
                    let killed = process::kill(uuid).map(|pid| format!("SIGKILL to its process {pid}"));
                    let left = work.deadline.saturating_duration_since(Instant::now());
                    // On the old connection the old call is still unanswered.
                    work.session = self.open(left).map_err(unanswered)?;
                    killed.unwrap_or_else(|| "virDomainDestroyFlags".to_owned())
                }
                Err(error) => return Err(unanswered(error)),
            };
            work.session.until(work.deadline);
            work.await_shut_off()?;
        }
        locked(&self.watched).remove(&uuid);
        locked(&self.deaf).remove(&uuid);
        Ok(seen(format!("{how}; virDomainGetState says that it is shut off")))
    }

    /// Make the machine's own copies of its image's disks, those that are not there yet.
    fn make_disks(&self, machine: &Machine, deadline: Instant) -> Result<(), Fault> {
        let image = document::image(machine, &self.section)?;
        for (index, disk) in image.disks.iter().enumerate().filter(|(_, disk)| disk.private) {
            let storage = |what: String| Fault::new(Failure::Storage, format!("its disk {index}: {what}"));
            let file = document::private_disk(&self.section, machine, index)
                .ok_or_else(|| storage("there is no place for it".into()))?;
            if file.exists() {
                continue;
            }
            // Only a whole one gets the name that is looked for.
            let fresh = file.with_extension("new");
            let mut command = Command::new(&self.section.qemu_img);
            command.args(["create", "-q", "-f", "qcow2", "-F", disk.format.name(), "-b"]);
            command.arg(&disk.file).arg(&fresh);
            run(command, deadline).map_err(storage)?;
            std::fs::rename(&fresh, &file).map_err(|error| storage(error.to_string()))?;
        }
        Ok(())
    }
}

impl Work<'_> {
    /// What a question without an answer means: before anything was asked for, that nothing has come about.
    fn fault(&self) -> fn(RpcError) -> Fault {
        if self.acted { unanswered } else { unsent }
    }

    fn state(&mut self) -> Result<(i32, i32), Fault> {
        self.session.state(&self.domain).map_err(self.fault())
    }

    fn look(&mut self) -> Result<Described, Fault> {
        self.session.described(&self.domain).map_err(self.fault())
    }

    fn has_saved_memory(&mut self) -> Result<bool, Fault> {
        self.session.has_saved_memory(&self.domain).map_err(self.fault())
    }

    /// Ask for something that changes the domain.
    fn ask(&mut self, request: &Request) -> Answer<Vec<u8>> {
        self.acted = true;
        self.session.carry_out(&self.domain, request)
    }

    /// A hypervisor that keeps libvirtd waiting is not asked more: each call would hold another of libvirtd's workers, of
    /// which there are twenty for all.
    fn must_listen(&mut self) -> Result<(), Fault> {
        match self.session.control(&self.domain).map_err(self.fault())? {
            Control::Busy(since) if since > BUSY_TIME => Err(cannot(BUSY)),
            Control::Broken => Err(cannot("libvirtd has lost the connection to its hypervisor")),
            _ => Ok(()),
        }
    }

    /// Carry out all, one after the other.
    fn all(&mut self, requests: &[Request]) -> Result<(), Fault> {
        for request in requests {
            self.ask(request).map_err(unanswered)?;
        }
        Ok(())
    }

    /// Carry out what is to lead to a state. Being in it already is as good.
    fn drive(&mut self, requests: &[Request], expected: i32) -> Result<Evidence, Fault> {
        let mut refused = None;
        for request in requests {
            match self.ask(request) {
                Ok(_) => {}
                Err(RpcError::Refused { code, message }) => {
                    refused = Some(RpcError::Refused { code, message });
                }
                Err(error) => return Err(unanswered(error)),
            }
        }
        match (self.state()?, refused) {
            ((state, _), None) if state == expected => {
                Ok(seen(format!("{}; virDomainGetState says {state}", names(requests))))
            }
            ((state, _), Some(_)) if state == expected && !matches!(requests, [Request::Reset]) => {
                Ok(seen(format!("virDomainGetState says {state}")))
            }
            (_, Some(error)) => Err(unanswered(error)),
            ((state, why), None) => {
                Err(cannot(format!("after {} its domain is in state {state}, reason {why}", names(requests))))
            }
        }
    }

    /// Have it defined, by which nothing runs.
    fn define(&mut self, request: &Request) -> Answer<()> {
        self.domain = self.session.define(&self.domain, request)?;
        if self.domain.uuid != self.machine.uuid.0.to_be_bytes() {
            return Err(RpcError::Malformed("another domain than was to be defined"));
        }
        Ok(())
    }

    fn define_and_start(&mut self, requests: &[Request]) -> Result<Evidence, Fault> {
        for request in requests {
            if matches!(request, Request::Define(_)) {
                // That alone runs nothing.
                self.define(request).map_err(|error| match error {
                    RpcError::Refused { .. } => start_fault(error),
                    error => unsent(error),
                })?;
            } else {
                self.ask(request).map_err(start_fault)?;
            }
        }
        match self.state()? {
            (RUNNING, _) => Ok(seen(format!("{}; virDomainGetState says that it runs", names(requests)))),
            (state, why) => Err(Fault::new(
                Failure::Spawn,
                format!("it was started and is in state {state}, reason {why}"),
            )),
        }
    }

    fn await_shut_off(&mut self) -> Result<(), Fault> {
        loop {
            // An answer that does not come in time is as bad as one that says it runs.
            if self.state()?.0 == SHUT_OFF {
                return Ok(());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn attach(&mut self, step: &Step, requests: &[Request]) -> Result<Evidence, Fault> {
        let has = |described: &Described| match step {
            Step::AttachVolume(volume) => described.volumes.contains_key(&volume.volume),
            Step::AttachNic(nic) => described.nics.contains_key(&nic.nic),
            _ => false,
        };
        if has(&self.now) {
            return Ok(seen("its domain has it already"));
        }
        self.all(requests)?;
        if has(&self.look()?) {
            Ok(seen(format!("{}; its domain has it", names(requests))))
        } else {
            Err(cannot("libvirtd took it and its domain has it not"))
        }
    }

    /// Ask the guest to let go. That it has is seen later, when its domain has it no more.
    fn detach(&mut self, step: &Step, requests: &[Request]) -> Result<Evidence, Fault> {
        let has = match step {
            Step::DetachVolume(name) => self.now.volumes.contains_key(name),
            Step::DetachNic(name) => self.now.nics.contains_key(name),
            _ => false,
        };
        if !has {
            return Ok(seen("its domain does not have it"));
        }
        for request in requests {
            match self.ask(request) {
                Ok(_) | Err(RpcError::Refused { code: DEVICE_MISSING, .. }) => {}
                // QEMU asks a guest once; the guest has not answered yet.
                Err(RpcError::Refused { message, .. }) if message.contains("in the process of unplug") => {
                    return Ok(seen("the guest has been asked before"));
                }
                Err(error) => return Err(unanswered(error)),
            }
        }
        Ok(seen(format!("{} was accepted", names(requests))))
    }

    fn resize_volume(&mut self, name: &VolumeName) -> Result<Evidence, Fault> {
        let target = self.now.volumes.get(name).cloned();
        let target = target.ok_or_else(|| cannot("its domain has no such disk"))?;
        let before = self.session.capacity(&self.domain, &target).map_err(self.fault())?;
        // Not the size it is to have: the target is asked for that. Any that is not larger makes QEMU ask.
        self.all(&[Request::BlockResize(target.clone(), before)])?;
        let after = self.session.capacity(&self.domain, &target).map_err(self.fault())?;
        Ok(seen(format!("virDomainBlockResize; it had {before} bytes and has {after}")))
    }

    fn resize(&mut self, requests: &[Request], size: Size) -> Result<Evidence, Fault> {
        self.all(requests)?;
        let Some(mib) = size.memory_mib else { return Ok(seen(names(requests))) };
        let wanted = u64::from(mib) << 10;
        loop {
            let figures = self.session.figures(&self.domain, BALLOON).map_err(self.fault())?;
            let current = figures.iter().find(|(name, _)| name == "balloon.current").map(|(_, value)| value);
            match current {
                Some(Figure::Number(kib)) if *kib == wanted => {
                    return Ok(seen(format!("{}; its guest has {mib} MiB", names(requests))));
                }
                Some(Figure::Number(kib)) if self.is_nearly_over() => {
                    let what = format!("its guest has {kib} KiB and was to have {wanted}");
                    return Err(Fault::new(Failure::GuestIgnored, what));
                }
                Some(Figure::Number(_)) => std::thread::sleep(LOOK_AGAIN),
                _ => return Err(cannot("libvirtd does not tell how much memory it has")),
            }
        }
    }

    fn is_nearly_over(&self) -> bool {
        self.deadline.saturating_duration_since(Instant::now()) < Duration::from_millis(300)
    }
}

/// What is defined has no name yet in libvirtd.
fn blank(machine: &Machine) -> Domain {
    Domain { name: String::new(), uuid: machine.uuid.0.to_be_bytes(), id: -1 }
}

fn names(requests: &[Request]) -> String {
    requests.iter().map(Request::name).collect::<Vec<_>>().join(", ")
}

/// What libvirtd refuses while a machine is started is why it was not started.
fn start_fault(error: RpcError) -> Fault {
    match error {
        RpcError::Refused { message, .. } => Fault::new(Failure::Spawn, message),
        error => unanswered(error),
    }
}

/// Run a program that answers at once, as a rule.
fn run(mut command: Command, deadline: Instant) -> Result<(), String> {
    let words = |error: std::io::Error| error.to_string();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(words)?;
    while child.try_wait().map_err(words)?.is_none() {
        if Instant::now() >= deadline {
            child.kill().and_then(|()| child.wait()).map_err(words)?;
            return Err("it could not be made in time".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().map_err(words)?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).chars().take(200).collect())
}
