//! What is seen to beside the networks, whatever the machine is at: whether somebody asks it to end, text for a console, and the
//! watchdog. From before the configuration is read on: a button that nobody looks at is pressed in vain, for QEMU keeps no press
//! that nobody listens for.

use crate::machine::Text;
use alloc::string::{String, ToString};
use drivers::{Asleep, Shutdown, Watchdog};
use kernel::Machine;
use kernel::power::{self, Exit, Request, TableWatchdog, Watch};

/// All of it.
pub(crate) struct Beside {
    /// Where log lines go.
    pub(crate) text: Text,
    /// The watchdog, once it is known whether it is wanted.
    pub(crate) feeder: Option<Feeder>,
    /// Where a hypervisor has something in the place of a button.
    pub(crate) shutdown: Option<Shutdown>,
    power: Watch,
}

impl Beside {
    /// Begin to listen. What was pressed before is lost.
    pub(crate) fn start(machine: &Machine) -> Self {
        let power = Watch::start();
        Self { text: Text::find(machine), feeder: None, shutdown: None, power }
    }

    /// See to all of it; answers what the machine is asked for, if it is. To be called in every turn.
    pub(crate) fn look(&mut self, machine: &Machine) -> Option<Request> {
        if let Some(feeder) = &mut self.feeder {
            feeder.feed(machine.now());
        }
        self.text.say(machine);
        match self.shutdown.as_mut().and_then(Shutdown::poll) {
            Some(drivers::Request::Off) => power::ask(Request::Off),
            Some(drivers::Request::Restart) => power::ask(Request::Reset),
            None => {}
        }
        self.power.asked(machine.now())
    }

    /// When [`Self::look`] is to be called at the latest.
    pub(crate) fn deadline(&self) -> Option<u64> {
        let fed = self.feeder.as_ref().and_then(Feeder::deadline);
        [self.power.deadline(), fed].into_iter().flatten().min()
    }

    /// See to all of it while there is nothing yet that would have to end in order: who is asked to end ends.
    pub(crate) fn look_or_end(&mut self, machine: &Machine) {
        if let Some(request) = self.look(machine) {
            log::info!(target: "corbel", "asked to end, before there is anything to end");
            self.end(machine, request);
        }
    }

    /// The same, and sleep if there is nothing to do until some time, but not for longer than may be.
    pub(crate) fn rest(&mut self, machine: &Machine, until: Option<u64>) {
        self.look_or_end(machine);
        if let Some(until) = until {
            machine.idle(Some(self.deadline().into_iter().fold(until, u64::min)));
        }
    }

    /// Say all there is to say, and end the machine.
    pub(crate) fn end(&mut self, machine: &Machine, request: Request) -> ! {
        self.text.say_all(machine);
        match request {
            Request::Off => power::exit(Exit::Success),
            Request::Reset => power::reset(),
        }
    }
}

/// Within how many seconds a watchdog that is there wants to be fed, unless something else is said.
const WATCHDOG: u16 = 60;

/// Feeds the watchdog, if there is one, from the turn of the machine, and while it waits for its networks to be found, and from
/// nowhere else: one that hangs is reset.
pub(crate) struct Feeder {
    watchdog: Option<Watchdog>,
    /// One that ACPI describes. Nobody has chosen it for this machine, so it is switched on only if the configuration says so.
    table: Option<TableWatchdog>,
    /// Microseconds from one time to the next: a quarter of what it waits.
    period: u64,
    next: u64,
}

impl Feeder {
    /// Switch the watchdog on that was found, if that is wanted.
    pub(crate) fn start(found: Option<Asleep>, wanted: Option<u16>) -> Result<Self, String> {
        let seconds = wanted.unwrap_or(WATCHDOG);
        let started = found.filter(|_| seconds != 0).map(|found| found.start(seconds)).transpose();
        let watchdog = started.unwrap_or_else(|error| {
            log::warn!("watchdog: not used: {error}");
            None
        });
        let wanted = wanted.filter(|seconds| *seconds != 0 && watchdog.is_none());
        let table = wanted.and_then(TableWatchdog::start);
        if wanted.is_some() && table.is_none() {
            return Err(
                "configuration: watchdog: this machine has none that there is a driver for".to_string()
            );
        }
        Ok(Self { watchdog, table, period: u64::from(seconds) * 250_000, next: 0 })
    }

    fn feed(&mut self, now: u64) {
        if now >= self.next && self.deadline().is_some() {
            self.watchdog.iter_mut().for_each(Watchdog::feed);
            self.table.iter().for_each(TableWatchdog::feed);
            self.next = now + self.period;
        }
    }

    fn deadline(&self) -> Option<u64> {
        (self.watchdog.is_some() || self.table.is_some()).then_some(self.next)
    }
}
