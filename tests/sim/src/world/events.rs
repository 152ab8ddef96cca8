//! What goes wrong when, and what ends.

use super::{APPLIANCE, OTHERS, Relief, World};
use crate::bug::Bug;
use crate::initiator::Order;
use crate::plan::{Fault, Net, Shape, Step};
use crate::wire::Quality;
use image_appliance::assemble::{Appliance, Gauges, Parts};
use image_appliance::limits::Limits;
use kernel_runtime::{Instant, Profile, Signal};
use std::time::Duration;

impl World {
    /// Faults that are due, and what ends.
    pub(super) fn happen(&mut self, now: Instant) {
        while self.next_fault.as_ref().is_some_and(|(at, _)| *at <= now) {
            let fault = core::mem::replace(&mut self.next_fault, self.faults.next());
            if let Some((_, fault)) = fault {
                log::debug!("{fault:?}");
                self.strike(now, fault);
            }
        }
        while let Some(place) = self.reliefs.iter().position(|(at, _)| *at <= now) {
            let (_, relief) = self.reliefs.swap_remove(place);
            self.relieve(now, relief);
        }
        let is_over = self.next_fault.is_none() && self.reliefs.is_empty() && self.appliance.is_some();
        if !is_over || self.shared.calm.get().is_some() {
        } else if now >= Instant::ZERO + self.shared.plan.shape.horizon {
            log::debug!("calm");
            for service in &self.shared.services {
                service.borrow_mut().heal(now);
            }
            for wire in &self.wires {
                wire.set_quality(Quality::clean());
            }
            self.watches.clear();
            self.shared.calm.set(Some(now));
            self.shared.signals.iter().for_each(Signal::raise);
        } else {
            self.reliefs.push((Instant::ZERO + self.shared.plan.shape.horizon, Relief::Nothing));
        }
    }

    fn strike(&mut self, now: Instant, fault: Fault) {
        if let Fault::Restart { down } = fault {
            return self.shut_down(now, down);
        }
        let shared = self.shared.clone();
        let unit = fault.unit().unwrap_or_default();
        let service = &mut *shared.services[unit].borrow_mut();
        match fault {
            Fault::Crash { loses_cache, keeps_requests, down, .. } => {
                let history = &mut *shared.history.borrow_mut();
                service.crash(now, down, loses_cache, keeps_requests, history);
            }
            Fault::Torn { sectors, loses_cache, down, .. } => service.tear_next(sectors, loses_cache, down),
            Fault::Kill { lingers, .. } => service.kill(now, lingers),
            Fault::KillOne { which, lingers, .. } => service.kill_some(now, which, lingers),
            Fault::Gateway { which, lingers, down, .. } => service.crash_gateway(now, which, lingers, down),
            Fault::Stuck { time, .. } => service.stick(now + time),
            Fault::Slow { time, delay, .. } => service.slow_down(now + time, delay),
            Fault::FlushErrors { count, drops, evicts, .. } => service.fail_flushes(count, drops, evicts),
            Fault::Errors { after, count, code, .. } => service.fail(after, count, code),
            Fault::Malformed { what, .. } => service.malform_next(what),
            Fault::Export { change, time, .. } => {
                service.change(now, change, time);
                shared.sizes[unit].set(service.medium.content().len());
            }
            Fault::Cut { net, ends, time } => {
                for (end, is_cut) in ends.into_iter().enumerate() {
                    self.wires[net as usize].cut(end, is_cut);
                }
                self.reliefs.push((now + time, Relief::Uncut(net)));
            }
            Fault::Weather { net, quality, time } => {
                self.wires[net as usize].set_quality(quality);
                self.reliefs.push((now + time, Relief::Wire(net)));
            }
            Fault::Drop { initiator, is_silent } => self.order(initiator, Order::Drop { is_silent }),
            Fault::Abort { initiator, step: Step::Any } => self.order(initiator, Order::Abort),
            Fault::Abort { initiator, step: Step::BeforeSent } => self.order(initiator, Order::AbortNext),
            Fault::Abort { initiator, step } => self.watches.push((step, initiator)),
            Fault::Reset { initiator, unit } => self.order(initiator, Order::Reset { unit }),
            Fault::Deaf { initiator, time } => {
                self.order(initiator, Order::Deaf { until: now + time });
                self.reliefs.push((now + time, Relief::Nothing));
            }
            Fault::Twin { initiator, logins } => {
                self.order(shared.plan.shape.initiators + initiator, Order::LogIn { times: logins });
            }
            Fault::Crowd { connections, time } => {
                shared.crowd.come(connections, now + time);
                self.reliefs.push((now + time, Relief::Nothing));
            }
            Fault::Restart { .. } => {}
            Fault::Pause { time } => {
                self.is_paused = true;
                shared.is_down.set(true);
                self.reliefs.push((now + time, Relief::GoOn));
            }
        }
    }

    fn order(&self, initiator: usize, order: Order) {
        self.shared.orders[initiator].borrow_mut().push_back(order);
        self.shared.signals[initiator].raise();
    }

    /// Abort commands that have come to the step that was waited for.
    pub(super) fn watch(&mut self) {
        for service in &self.shared.services {
            let moments = core::mem::take(&mut service.borrow_mut().moments);
            for moment in moments {
                let is_meant = |(step, _): &(Step, usize)| *step == moment.step;
                if let Some(place) = self.watches.iter().position(is_meant) {
                    let (_, initiator) = self.watches.remove(place);
                    self.order(initiator, Order::AbortAt { unit: moment.unit, write: moment.write });
                }
            }
        }
    }

    fn relieve(&mut self, now: Instant, relief: Relief) {
        match relief {
            Relief::Wire(net) => {
                let plan = &self.shared.plan;
                let quality = if net == Net::Host { plan.shape.host } else { plan.shape.service };
                self.wires[net as usize].set_quality(quality);
            }
            Relief::Uncut(net) => {
                self.wires[net as usize].cut(APPLIANCE, false);
                self.wires[net as usize].cut(OTHERS, false);
            }
            Relief::Boot => self.boot(now),
            Relief::GoOn if self.reliefs.iter().any(|(_, other)| matches!(other, Relief::GoOn)) => {}
            Relief::GoOn => {
                self.is_paused = false;
                if self.appliance.is_some() {
                    self.shared.is_down.set(false);
                    self.shared.restarted.set(now);
                }
            }
            Relief::Nothing => {}
        }
    }

    /// The appliance goes down without a word, and boots again soon.
    fn shut_down(&mut self, now: Instant, down: Duration) {
        if self.appliance.take().is_none() {
            return;
        }
        self.is_paused = false;
        self.shared.is_down.set(true);
        let history = &mut *self.shared.history.borrow_mut();
        for (unit, service) in self.shared.services.iter().enumerate() {
            let service = &mut *service.borrow_mut();
            service.orphan();
            let (content, durable) = (service.medium.content(), service.medium.durable());
            if let Err(reason) = history.excuse_unflushed(unit, content, durable, now) {
                self.shared.fail(reason);
            }
        }
        self.reliefs.push((now + down, Relief::Boot));
    }

    fn boot(&mut self, now: Instant) {
        for wire in &self.wires {
            wire.clear(APPLIANCE);
        }
        let [host, service] = [0, 1].map(|wire| self.wires[wire].port(APPLIANCE));
        let [a, b, c, d, e] = [(); 5].map(|()| self.random.next());
        let seeds = [a, b, c, d, e, 0, 0, 0, 0];
        let memory = self.shared.plan.shape.memory;
        let (profile, gauges) = (Profile::off(), Gauges::NONE);
        let (secrets, checksum) = (None, None);
        // What a buffer held before must not show.
        let buffer = |length| vec![0xa5; length];
        let state = None;
        let parts =
            Parts { host, service, seeds, secrets, state, checksum, profile, gauges, memory, buffer, now };
        let Shape { connections, entries, .. } = self.shared.plan.shape;
        let limits = Limits { paths: connections, ..Limits::for_memory(memory) };
        let mut storage = limits.storage();
        if entries > 0 {
            storage.entries = entries;
        }
        if self.shared.bug == Some(Bug::NoHoldOff) {
            storage.hold_off = Duration::ZERO;
        }
        match Appliance::assemble_within(&self.config, parts, &limits, &storage) {
            Ok(appliance) => self.appliance = Some(appliance),
            Err(reason) => self.shared.fail(reason),
        }
        for service in &self.shared.services {
            service.borrow_mut().boot(now);
        }
        self.shared.is_down.set(false);
        self.shared.restarted.set(now);
    }
}
