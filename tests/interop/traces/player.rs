//! Plays a trace: an initiator that logs in, asks and compares as the trace says, and lets nothing else pass.

use super::data::Names;
use super::script::{Act, Command, Outcome, Step};
use crate::hostile::peer::{Heard, Peer, SOON, Who, declared_segment, login, text};
use crate::hostile::session::{Answer, CHECK_CONDITION, GOOD, Session, lun};
use std::collections::BTreeMap;
use storage_iscsi::wire::text::pairs;
use storage_iscsi::wire::{
    DataOut, LoginRequest, LoginResponse, LogoutRequest, RESERVED_TAG, TextRequest, opcode,
};

/// Keys that a target may say without having been asked.
const UNASKED: &[&str] = &["TargetPortalGroupTag", "TargetAlias", "MaxRecvDataSegmentLength"];

/// One initiator of a trace.
struct Party {
    who: Who,
    lun: u8,
    link: Link,
    /// What was agreed on so far.
    agreed: BTreeMap<String, String>,
    /// The tag and number of its last command.
    last: (u32, u32),
}

/// How far it has come.
enum Link {
    Login { peer: Peer, stat_sn: u32 },
    Session(Box<Session>),
    Gone,
}

/// All initiators of a trace, and the bytes it has names for.
#[derive(Default)]
pub(super) struct Player {
    iqn: String,
    parties: BTreeMap<char, Party>,
    names: Names,
}

impl Player {
    /// Plays all of `steps` against the target `iqn`. The error says which step failed and how.
    pub(super) fn play(iqn: &str, steps: &[Step]) -> Result<(), String> {
        let mut player = Self { iqn: iqn.to_string(), ..Self::default() };
        for step in steps {
            player.step(step).map_err(|error| format!("line {}: {error}", step.line))?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        if let Act::Connect { name, isid, lun } = &step.act {
            let who = Who { initiator: name.clone(), isid: *isid, iqn: self.iqn.clone(), first: (1, 0) };
            let link = Link::Login { peer: Peer::connect(), stat_sn: 0 };
            let party = Party { who, lun: *lun, link, agreed: BTreeMap::new(), last: (0, 0) };
            self.parties.insert(step.who, party);
            return Ok(());
        }
        let party = self.parties.get_mut(&step.who).ok_or("nobody of that letter has connected")?;
        match &step.act {
            Act::Login { stages, keys, answer } => party.log_in(*stages, keys, answer),
            Act::Text { keys, answer } => party.text(keys, answer),
            Act::Command(command) => party.run(command, &mut self.names),
            Act::Unit(lun) => {
                party.lun = *lun;
                Ok(())
            }
            Act::Ping => party.session()?.ping().map(drop),
            Act::Manage { function, response } => party.manage(*function, *response),
            Act::Logout { reason } => party.log_out(*reason),
            Act::Drop | Act::Connect { .. } => {
                party.link = Link::Gone;
                Ok(())
            }
        }
    }
}

impl Party {
    fn session(&mut self) -> Result<&mut Session, String> {
        match &mut self.link {
            Link::Session(session) => Ok(session),
            _ => Err("it has no session".into()),
        }
    }

    /// The keys with what stands for names filled in.
    fn filled(&self, keys: &[(String, String)]) -> Vec<(String, String)> {
        let fill = |value: &str| match value {
            "$me" => self.who.initiator.clone(),
            "$target" => self.who.iqn.clone(),
            other => other.to_string(),
        };
        keys.iter().map(|(key, value)| (key.clone(), fill(value))).collect()
    }

    fn log_in(
        &mut self,
        stages: (u8, u8),
        keys: &[(String, String)],
        wanted: &[(String, String)],
    ) -> Result<(), String> {
        let (keys, wanted) = (self.filled(keys), self.filled(wanted));
        let request = login(&self.who);
        let Link::Login { peer, stat_sn } = &mut self.link else { return Err("it is logged in".into()) };
        let (current_stage, next_stage) = stages;
        peer.say(
            LoginRequest { current_stage, next_stage, exp_stat_sn: *stat_sn, ..request }.header(),
            &encoded(&keys),
        );
        let (response, data) = match peer.hear(SOON) {
            Heard::Pdu(header, data) if header.opcode() == opcode::LOGIN_RESPONSE => {
                (LoginResponse::read(&header), data)
            }
            other => return Err(format!("no login response: {other:?}")),
        };
        let reached = (response.current_stage, response.next_stage, response.transit);
        if (response.status_class, reached) != (0, (current_stage, next_stage, true)) {
            return Err(format!("the target answers {response:?}"));
        }
        *stat_sn = response.stat_sn.wrapping_add(1);
        let answer = compare(&data, &wanted)?;
        for (key, value) in &answer {
            if !UNASKED.contains(&key.as_str()) && keys.iter().all(|(asked, _)| asked != key) {
                return Err(format!(
                    "{key}={value}, which nobody asked for: some initiators never answer it"
                ));
            }
        }
        self.agreed.extend(keys);
        self.agreed.extend(answer);
        if next_stage != 3 {
            return Ok(());
        }
        if response.tsih == 0 {
            return Err("a session without a handle".into());
        }
        let Link::Login { peer, .. } = std::mem::replace(&mut self.link, Link::Gone) else { unreachable!() };
        self.link = Link::Session(Box::new(Session::begun(peer, &response, declared_segment(&data))));
        Ok(())
    }

    fn text(&mut self, keys: &[(String, String)], wanted: &[(String, String)]) -> Result<(), String> {
        let (data, wanted) = (encoded(&self.filled(keys)), self.filled(wanted));
        let session = self.session()?;
        let request = TextRequest {
            immediate: true,
            last: true,
            initiator_task_tag: session.tag(),
            target_transfer_tag: RESERVED_TAG,
            cmd_sn: session.cmd_sn,
            exp_stat_sn: session.exp_stat_sn,
            ..TextRequest::default()
        };
        session.peer.say(request.header(), &data);
        match session.peer.hear(SOON) {
            Heard::Pdu(header, data) if header.opcode() == opcode::TEXT_RESPONSE => {
                session.exp_stat_sn = session.exp_stat_sn.wrapping_add(1);
                compare(&data, &wanted).map(drop)
            }
            other => Err(format!("no text response: {other:?}")),
        }
    }

    fn agreed(&self, key: &str, default: &str) -> String {
        self.agreed.get(key).map_or(default, String::as_str).to_string()
    }

    fn run(&mut self, command: &Command, names: &mut Names) -> Result<(), String> {
        let mut cdb = [0; 16];
        let bytes = command.cdb.bytes(names)?;
        cdb.get_mut(..bytes.len()).ok_or("a CDB of more than 16 bytes")?.copy_from_slice(&bytes);
        let out = command.out.bytes(names)?;
        let tag = self.send(&cdb, &out, command.expected)?;
        let answer = self.session()?.finish(tag, SOON)?;
        let fail = |error: String| format!("{cdb:02x?}: {error}; {answer:?}\n{:02x?}", answer.data);
        match &command.outcome {
            Outcome::Good(data) if answer.status == GOOD => {
                data.check(&answer.data, names).map_err(fail)?;
                residual(&answer, command.expected).map_err(fail)
            }
            Outcome::Sense(key, code, qualifier) if answer.status == CHECK_CONDITION => {
                let found = answer.sense;
                if found == Some((*key, *code, *qualifier)) {
                    Ok(())
                } else {
                    Err(fail("other sense".into()))
                }
            }
            Outcome::Status(status) if answer.status == *status => Ok(()),
            _ => Err(fail("another status".into())),
        }
    }

    /// Sends a command with as much of its data as was agreed on.
    fn send(&mut self, cdb: &[u8; 16], out: &[u8], expected: u32) -> Result<u32, String> {
        let first: usize =
            self.agreed("FirstBurstLength", "65536").parse().map_err(|_| "no FirstBurstLength")?;
        let immediate = self.agreed("ImmediateData", "Yes") == "Yes";
        let unsolicited = self.agreed("InitialR2T", "Yes") == "No";
        let (unit, first) = (lun(self.lun), first.min(out.len()));
        let session = self.session()?;
        let now = if immediate { first.min(session.segment()) } else { 0 };
        let until = if unsolicited { first } else { now };
        let mut command = session.command(unit, cdb, out.len(), expected);
        command.last = until == now;
        let tag = session.send(&command, out, now);
        // Windows leaves the unit out of its Data-Out, and whoever looks at it does not serve Windows.
        session.leave_out_unit(tag);
        for (number, start) in (0..).zip((now..until).step_by(session.segment())) {
            let end = until.min(start + session.segment());
            let part = DataOut {
                last: end == until,
                initiator_task_tag: tag,
                target_transfer_tag: RESERVED_TAG,
                exp_stat_sn: session.exp_stat_sn,
                data_sn: number,
                buffer_offset: u32::try_from(start).unwrap(),
                ..DataOut::default()
            };
            session.peer.say(part.header(), &out[start..end]);
        }
        self.last = (tag, command.cmd_sn);
        Ok(tag)
    }

    fn manage(&mut self, function: u8, response: u8) -> Result<(), String> {
        let (unit, task) = (lun(self.lun), self.last);
        let found = self.session()?.manage(function, unit, task)?;
        if found == response { Ok(()) } else { Err(format!("response {found}, not {response}")) }
    }

    fn log_out(&mut self, reason: u8) -> Result<(), String> {
        let session = self.session()?;
        let tag = session.tag();
        let request = LogoutRequest {
            immediate: true,
            reason,
            initiator_task_tag: tag,
            cmd_sn: session.cmd_sn,
            exp_stat_sn: session.exp_stat_sn,
            ..LogoutRequest::default()
        };
        session.peer.say(request.header(), &[]);
        match session.answer(tag)? {
            0 => session.peer.ends(SOON).map(drop),
            other => Err(format!("logout: response {other}")),
        }
    }
}

fn encoded(keys: &[(String, String)]) -> Vec<u8> {
    text(&keys.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect::<Vec<_>>())
}

/// The keys of an answer, if all that are wanted have the value that is wanted: `*` is any, `-` is none.
fn compare(data: &[u8], wanted: &[(String, String)]) -> Result<Vec<(String, String)>, String> {
    let mut answer = Vec::new();
    for pair in pairs(data) {
        let (key, value) = pair.map_err(|_| format!("no text: {data:?}"))?;
        answer.push((key.to_string(), value.to_string()));
    }
    for (key, value) in wanted {
        let mut found = answer.iter().filter(|(known, _)| known == key).map(|(_, value)| value.as_str());
        let good = match value.as_str() {
            "-" => found.next().is_none(),
            "*" => found.next().is_some(),
            value => found.any(|found| found == value),
        };
        if !good {
            return Err(format!("{key}={value} was expected; the answer is {answer:?}"));
        }
    }
    Ok(answer)
}

/// What is missing of the data that was expected is told, and nothing else is (RFC 7143 section 11.4.5).
fn residual(answer: &Answer, expected: u32) -> Result<(), String> {
    let missing = expected - u32::try_from(answer.data.len()).unwrap().min(expected);
    let told = (answer.underflow, answer.overflow, answer.residual);
    if expected == 0 || told == (missing != 0, false, missing) {
        Ok(())
    } else {
        Err(format!("{missing} bytes are missing, the residual is {told:?}"))
    }
}
