//! Being told of what happens to domains. What is told only wakes: what is so is read from the domain.

use super::Libvirt;
use super::rpc::Answer;
use super::session::{Session, concerned, disk_error};
use crate::hypervisor::Incident;
use crate::locked;
use agent_protocol::Uuid;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long a connection may take to be made.
const CONNECT_TIME: Duration = Duration::from_millis(500);
/// How long after a failure it is tried again.
const RETRY_TIME: Duration = Duration::from_millis(500);
/// After so long a silence libvirtd is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(5);
/// After so long a silence it is not.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often all that runs is looked at, whatever was told: libvirtd does not tell of a domain that ends while it is itself
/// still starting.
const SWEEP: Duration = Duration::from_secs(3);
/// How many notices are read in a row.
const AT_ONCE: usize = 256;

/// The connection on which libvirtd tells.
#[derive(Default)]
pub(super) struct Events {
    session: Option<Session>,
    tried: Option<Instant>,
    asked: Option<Instant>,
    swept: Option<Instant>,
}

impl Libvirt {
    /// Wait until something has happened to a machine that is watched; those to which something has. After a connection
    /// was lost it may have happened to any.
    pub(super) fn await_news(&self, within: Duration) -> Vec<Uuid> {
        let began = Instant::now();
        let mut events = locked(&self.events);
        if events.session.is_none() {
            match self.listen(&mut events, within) {
                true => return locked(&self.watched).iter().copied().collect(),
                false => {
                    drop(events);
                    std::thread::sleep(within.saturating_sub(began.elapsed()));
                    return Vec::new();
                }
            }
        }
        match events.news(within) {
            Ok((mut news, errors)) => {
                // One of a machine is enough: a guest can cause them without end.
                let mut incidents = locked(&self.incidents);
                for error in errors {
                    incidents.retain(|other| other.uuid != error.uuid);
                    incidents.push(error);
                }
                drop(incidents);
                news.append(&mut locked(&self.unseen));
                news.extend(self.sweep(&mut events));
                let watched = locked(&self.watched);
                news.into_iter().filter(|uuid| watched.contains(uuid)).collect()
            }
            Err(error) => {
                log::warn!("what happens to domains is not told any more: {error}");
                events.session = None;
                // The next one may be another.
                *locked(&self.version) = None;
                Vec::new()
            }
        }
    }

    /// Those that are watched and do not run, now and then.
    fn sweep(&self, events: &mut Events) -> Vec<Uuid> {
        if events.swept.is_some_and(|swept| swept.elapsed() < SWEEP) {
            return Vec::new();
        }
        events.swept = Some(Instant::now());
        let leftover = locked(&self.leftovers).pop();
        if let Some(machine) = leftover
            && self.remove(&machine).is_err()
        {
            locked(&self.leftovers).insert(0, machine);
        }
        // They are taken down before it is asked what runs: one that is started meanwhile is not among them.
        let watched = locked(&self.watched).clone();
        match self.open(CONNECT_TIME).and_then(|mut session| session.active()) {
            Ok(active) => watched.difference(&active).copied().collect(),
            Err(_) => Vec::new(),
        }
    }

    fn listen(&self, events: &mut Events, within: Duration) -> bool {
        if events.tried.is_some_and(|tried| tried.elapsed() < RETRY_TIME) {
            return false;
        }
        let first = events.tried.replace(Instant::now()).is_none();
        let deadline = Instant::now() + within.min(CONNECT_TIME);
        let opened = Session::open(&self.section.socket, &self.section.uri, deadline);
        let listening = opened.and_then(|mut session| session.listen().map(|()| session));
        match listening {
            Ok(session) => {
                log::info!("libvirtd tells of what happens to domains");
                *events = Events { session: Some(session), asked: None, ..*events };
                true
            }
            Err(error) => {
                if first {
                    log::warn!("{error}");
                }
                false
            }
        }
    }
}

impl Events {
    fn news(&mut self, within: Duration) -> Answer<(BTreeSet<Uuid>, Vec<Incident>)> {
        let (mut news, mut errors) = (BTreeSet::new(), Vec::new());
        let Some(link) = self.session.as_mut().map(Session::link) else { return Ok((news, errors)) };
        let silent = link.heard().elapsed() > SILENCE;
        if silent && self.asked.is_none_or(|asked| asked.elapsed() > SILENCE) {
            self.asked = Some(Instant::now());
            link.ping(within)?;
        }
        let mut left = within;
        for _ in 0..AT_ONCE {
            let Some(notice) = link.notice(left, PATIENCE)? else { break };
            news.extend(concerned(&notice));
            errors.extend(disk_error(&notice));
            // What else has arrived belongs to it.
            left = Duration::from_millis(1);
        }
        Ok((news, errors))
    }
}
