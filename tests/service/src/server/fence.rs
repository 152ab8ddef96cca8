//! The rules of the writer context: who may come, and who has to go for it (README.md).

use super::{Connection, Server};
use crate::claim::Claim;
use crate::lease::{self, Refused};
use storage_nbd::wire::option_reply;

impl Server {
    /// Decides the claim of the connection at `index`, and answers it. When it is answered well, nothing that came by a
    /// connection that was cut for it can change the medium any more.
    pub(super) fn decide(&mut self, index: usize, claim: Claim) {
        let wanted = lease::Claim { generation: claim.generation, owner: claim.owner.clone() };
        let decision = self.lease.admit(&wanted);
        match &decision {
            Ok(is_new_here) => {
                if *is_new_here {
                    // Another gateway has served since: the cache is of a time before that.
                    self.lose();
                }
                self.cut_for(index, &claim);
                let id = self.connections[index].id;
                self.log.note(
                    id,
                    "admitted",
                    (claim.generation, claim.session),
                    (true, 0),
                    claim.owner.as_bytes(),
                );
                self.writer = Some(claim.clone());
                self.connections[index].claim = Some(claim);
            }
            Err(_) => self.counts.refused += 1,
        }
        self.tell_incarnation();
        let answer = match &decision {
            Ok(_) => Ok(()),
            Err(Refused::Policy(reason)) => Err((option_reply::ERR_POLICY, reason.as_str())),
            Err(Refused::Failed(error)) => {
                eprintln!("a claim could not be decided: {error}");
                // Not the client's fault, and not for ever.
                Err((option_reply::ERR_SHUTDOWN, "the state of the disk is not to be had now"))
            }
        };
        self.connections[index].session.decide(&self.export, answer);
    }

    /// Cuts whom `claim`, which came by the connection at `index`, puts in the place of.
    fn cut_for(&mut self, index: usize, claim: &Claim) {
        let newcomer = self.connections[index].id;
        let is_known = |other: &Connection| other.claim.as_ref().is_some_and(|other| other.is_of(claim));
        let is_joining = self.writer.as_ref().is_some_and(|writer| writer.is_of(claim));
        let doomed = |other: &Connection| {
            let listed = |other: &Claim| claim.alive.contains(&other.connection);
            let is_missed = other.claim.as_ref().is_some_and(|other| !listed(other));
            // The dead one's leftovers are never listed; who claims nothing may stay to read, but only beside a join.
            other.id != newcomer
                && (other.stream.is_none() || if is_known(other) { is_missed } else { !is_joining })
        };
        let cut: Vec<usize> =
            (0..self.connections.len()).filter(|index| doomed(&self.connections[*index])).collect();
        for index in cut {
            self.cut(index);
        }
    }

    /// Closes a connection and throws away what it brought.
    pub(super) fn cut(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        self.counts.discarded += connection.waiting.drain(..).count() as u64;
        self.counts.cut += 1;
        connection.stream = None;
        let id = connection.id;
        self.log.note(id, "cut", (0, 0), (true, 0), &[]);
    }

    /// Another gateway has taken over: nobody here may touch the medium any more.
    pub(super) fn fenced(&mut self) {
        for index in 0..self.connections.len() {
            self.cut(index);
        }
        self.lose();
    }

    /// Forgets what only the cache holds.
    pub(super) fn lose(&mut self) {
        let pages = self.medium.lose();
        self.log.note(0, "lost", (0, pages as u64), (false, 0), &[]);
        if let Err(error) = self.lease.forget() {
            eprintln!("the new incarnation could not be kept: {error}");
        }
        self.tell_incarnation();
    }

    /// Lets clients be told of the present incarnation.
    pub(super) fn tell_incarnation(&mut self) {
        let truth = self.lease.incarnation().to_string();
        self.export.incarnation = self.tells_incarnation.then(|| self.lie.clone().unwrap_or(truth));
    }
}
