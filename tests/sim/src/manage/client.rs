//! Clients of the API: each asks for one command after another, asks again under the same token when it hears nothing, and
//! looks at the operation until it has ended.

use super::check::Check;
use super::net::{ACCEPTOR, Event, Kind, Net};
use super::shelf::DISKS;
use crate::random::Random;
use kernel_runtime::Instant;
use management_http::{Client as Engine, Limits, Method};
use serde_json::Value;
use std::rc::Rc;
use std::time::Duration;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(12);

/// What a client is at.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Aim {
    /// To have its command accepted.
    Command,
    /// To see the operation end.
    Look,
    /// To hear the same again under the same token.
    Again,
    /// To have another command refused under the same token.
    Other,
    /// To have the map of its network taken.
    Map,
    /// To have the document of its target taken, with this access.
    Target(&'static str),
}

pub(crate) struct Client {
    number: usize,
    net: Rc<Net>,
    random: Random,
    /// The appliance it speaks to.
    who: usize,
    instances: u64,
    /// Commands that are left.
    pub(crate) left: usize,
    aim: Aim,
    /// The command: path, body and token, and the operation that it became.
    path: String,
    body: String,
    token: String,
    op: Option<String>,
    /// It has not made an instance yet.
    is_new: bool,
    /// Which instance its last command was for, and which verb it had.
    instance: u64,
    last: u64,
    /// Of the last map of its network.
    generation: u64,
    stage: Option<String>,
    /// The connection, what is heard on it, and until when.
    conn: Option<(usize, Engine, Instant)>,
    /// When it goes on: events of an earlier wait come too.
    due: Instant,
    /// Nobody may know how it ended, after this.
    calm: Instant,
}

impl Client {
    pub(crate) fn new(
        number: usize,
        net: &Rc<Net>,
        mut random: Random,
        shape: (usize, usize),
        calm: Instant,
    ) -> Self {
        let (left, instances) = shape;
        let mut client = Self {
            number,
            net: net.clone(),
            random: random.fork(),
            who: 0,
            instances: instances as u64,
            left,
            aim: Aim::Command,
            path: String::new(),
            body: String::new(),
            token: String::new(),
            op: None,
            is_new: true,
            instance: 0,
            last: 0,
            generation: 0,
            stage: None,
            conn: None,
            due: Instant::ZERO,
            calm,
        };
        client.choose();
        client.rest(2_000);
        client
    }

    /// What keeps it from having ended.
    pub(crate) fn describe(&self) -> String {
        format!(
            "client {}: {:?} of {:?} ({} {}), {:?}",
            self.number, self.aim, self.op, self.path, self.body, self.stage
        )
    }

    fn rest(&mut self, most_ms: u64) {
        let wait = Duration::from_millis(self.random.range(1, most_ms));
        self.due = self.net.now.get() + wait;
        self.net.after(wait, Event::Client { client: self.number });
    }

    /// The next command.
    fn choose(&mut self) {
        self.token = format!("t-{}-{}", self.number, self.left);
        (self.op, self.stage, self.aim) = (None, None, Aim::Command);
        if self.random.chance(120) {
            return self.choose_map();
        }
        if self.random.chance(60) {
            return self.choose_target();
        }
        // What comes next is mostly for the same one, and often what goes with the last.
        if self.is_new || self.random.chance(400) {
            self.instance = self.random.below(self.instances);
            self.last = 0;
        }
        let instance = format!("vm-{}", self.instance);
        let budget = self.random.pick(&[300, 2000, 8000, 25_000]);
        let token = &self.token;
        let tail = format!(r#""client_token":"{token}","deadline_ms":{budget}"#);
        if self.random.chance(if self.is_new { 700 } else { 150 }) {
            self.is_new = false;
            self.path = "/v1/instances".into();
            self.body = format!(r#"{{"id":"{instance}","image":"tiny","start":true,{tail}}}"#);
            return;
        }
        self.path = format!("/v1/instances/{instance}/commands");
        let words = self.words();
        self.body = format!("{{{words},{tail}}}");
    }

    /// A verb and what it takes. What is attached has few names, so that it is found again.
    fn words(&mut self) -> String {
        let (number, left) = (self.number, self.left);
        let random = &mut self.random;
        let then = random.pick(&["leave", "force"]);
        let timeout = random.pick(&[500, 3000, 15_000]);
        let disk = random.pick(&DISKS);
        let link = random.pick(&["up", "down"]);
        let of = |verb: &str, args: String| format!(r#""verb":"{verb}","args":{{{args}}}"#);
        let plain = |verb: &str| format!(r#""verb":"{verb}""#);
        let any = random.below(38);
        // Pause and resume, save and restore, snapshot and revert, a disk or an interface that comes and goes.
        let next = match self.last {
            6..=8 => 9,
            16 | 17 => 18,
            20 => 21,
            24..=26 => random.pick(&[27, 28, 29]),
            30 | 31 => random.pick(&[32, 33]),
            _ => any,
        };
        self.last = if random.chance(700) { next } else { any };
        match self.last {
            0 | 1 => plain("start"),
            2..=4 => of("stop", format!(r#""timeout_ms":{timeout},"then":"{then}""#)),
            5 => of("stop", r#""graceful":false"#.into()),
            6..=8 => plain("pause"),
            9 | 10 => plain("resume"),
            11 => plain("terminate"),
            12 | 13 => of("reboot", format!(r#""timeout_ms":{timeout},"then":"{then}""#)),
            14 | 15 => plain("reset"),
            16 | 17 => plain("save"),
            18 | 19 => plain("restore"),
            20 => of("snapshot", r#""snapshot":"then""#.into()),
            21 => of("revert", r#""snapshot":"then""#.into()),
            22 => of("resize", format!(r#""cpus":{}"#, random.range(1, 3))),
            23 => of("resize", r#""memory_mib":256"#.into()),
            24..=26 => of("volume.attach", format!(r#""target":"{disk}""#)),
            27 | 28 => of("volume.detach", format!(r#""volume":"{disk}","timeout_ms":{timeout}"#)),
            29 => of("volume.resize", format!(r#""volume":"{disk}""#)),
            30 | 31 => of(
                "nic.attach",
                format!(r#""nic":"eth","network":"net","mac":"52:54:00:00:00:01","link":"{link}""#),
            ),
            32 => of("nic.detach", format!(r#""nic":"eth","timeout_ms":{timeout}"#)),
            33 => of("nic.update", format!(r#""nic":"eth","link":"{link}""#)),
            34 | 35 => of("migrate.start", r#""peer":"there""#.into()),
            36 => plain("migrate.cancel"),
            _ => {
                let uuid = format!("00000000-0000-4000-8000-00000{number:03}{left:04}");
                of("migrate.prepare", format!(r#""image":"tiny","uuid":"{uuid}""#))
            }
        }
    }

    /// The next document of its target: what can be changed of one is who may use it how.
    fn choose_target(&mut self) {
        let access = self.random.pick(&["optimized", "non-optimized", "standby"]);
        self.aim = Aim::Target(access);
        let number = self.number;
        self.path = format!("/v1/targets/own-{number}");
        self.body = format!(
            r#"{{"iqn":"iqn.2026-01.example:own-{number}","volume":"nbd://10.1.0.9/own","initiators":["*"],"access":"{access}"}}"#
        );
    }

    /// The next map of its network.
    fn choose_map(&mut self) {
        self.aim = Aim::Map;
        self.generation += 1;
        let (number, generation) = (self.number, self.generation);
        let endpoints: Vec<String> = (1..=self.random.range(1, 4))
            .map(|last| {
                let at = self.random.range(1, 5);
                format!(r#"{{"mac":"52:54:00:00:0{number}:0{last}","ip":"10.0.0.{last}","underlay":"192.0.2.{at}"}}"#)
            })
            .collect();
        self.path = format!("/v1/networks/net-{number}/map");
        self.body = format!(
            r#"{{"network":"net-{number}","generation":{generation},"vni":{},"mtu":1450,"endpoints":[{}]}}"#,
            number + 1,
            endpoints.join(",")
        );
    }

    /// Another command under the same token.
    fn other(&self) -> String {
        let start = r#"{"verb":"start","#;
        match self.body.split_once(r#""client_token""#) {
            Some(_) if self.body.starts_with(start) => self.body.replace("start", "terminate"),
            Some((_, tail)) if self.path.ends_with("commands") => format!(r#"{start}"client_token"{tail}"#),
            _ => self.body.replace("true", "false"),
        }
    }

    /// It is the time for the next step: a new request, or no more patience with the last one.
    pub(crate) fn go_on(&mut self) {
        if let Some((conn, _, until)) = &self.conn {
            if self.net.now.get() < *until {
                return;
            }
            self.net.reset(*conn);
            self.conn = None;
            return self.rest(500);
        }
        if self.left == 0 || self.net.now.get() < self.due {
            return;
        }
        let conn = self.net.open(Kind::Client(self.number), self.who);
        let mut engine = Engine::new(Limits::CLIENT, "corbel");
        let other = self.other();
        match &self.aim {
            Aim::Look => {
                let wait = if self.random.chance(500) { "?wait=10s" } else { "" };
                let path = format!("/v1/operations/{}{wait}", self.op.as_deref().unwrap_or_default());
                engine.request(Method::Get, &path, None);
            }
            Aim::Map | Aim::Target(_) => engine.request(Method::Put, &self.path, Some(self.body.as_bytes())),
            Aim::Other => engine.request(Method::Post, &self.path, Some(other.as_bytes())),
            Aim::Command | Aim::Again => engine.request(Method::Post, &self.path, Some(self.body.as_bytes())),
        }
        self.net.write(conn, ACCEPTOR, engine.transmit());
        engine.transmitted(engine.transmit().len());
        let until = self.net.now.get() + PATIENCE;
        self.net.at(until, Event::Client { client: self.number });
        self.conn = Some((conn, engine, until));
    }

    /// The connection is gone.
    pub(crate) fn gone(&mut self, conn: usize) {
        if self.conn.take_if(|(other, ..)| *other == conn).is_some() {
            self.rest(1_000);
        }
    }

    pub(crate) fn received(&mut self, conn: usize, bytes: &[u8], check: &mut Check) {
        let Some((_, engine, _)) = self.conn.as_mut().filter(|(other, ..)| *other == conn) else { return };
        let mut rest = bytes;
        while !rest.is_empty() && engine.reply().is_none() {
            let space = engine.space();
            let count = space.len().min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            if let Err(fatal) = engine.received(count) {
                return check.wrong(format!("the appliance answers what is no HTTP: {fatal}"));
            }
        }
        let Some(reply) = engine.reply() else { return };
        let (status, document) = (reply.status, serde_json::from_slice(reply.body).unwrap_or(Value::Null));
        self.net.reset(conn);
        self.conn = None;
        self.answered(status, &document, check);
    }

    fn answered(&mut self, status: u16, document: &Value, check: &mut Check) {
        let kind = document["type"].as_str().unwrap_or_default();
        let kind = kind.strip_prefix("urn:corbel:problem:").unwrap_or_default().to_owned();
        log::debug!(
            "client {}: {:?} {}: {status} {kind} {}",
            self.number,
            self.aim,
            self.token,
            document["state"]
        );
        // A problem names the operation that it is of.
        let named = document["instance"].as_str().and_then(|path| path.strip_prefix("/v1/operations/"));
        let op = document["id"].as_str().filter(|_| status < 300).or(named).map(str::to_owned);
        match self.aim {
            Aim::Other => {
                if status < 300 {
                    check.renamed(self.op.as_deref().unwrap_or_default(), op.as_deref().unwrap_or_default());
                }
                self.next();
            }
            Aim::Map => match kind.as_str() {
                "" => {
                    check.promised(self.who, document);
                    self.next();
                }
                "stale-epoch" => {
                    self.who = usize::from(check.is_replaced);
                    self.next();
                }
                "no-state" | "too-busy" | "state-disk-full" => self.rest(2_000),
                _ => check.wrong(format!("{}: a newer map is refused: {kind}", self.path)),
            },
            Aim::Target(access) => match kind.as_str() {
                "" => {
                    check.exposed(self.who, access, document);
                    self.next();
                }
                "no-state" | "too-busy" | "state-disk-full" => self.rest(2_000),
                _ => check.wrong(format!("{}: another access is refused: {kind}", self.path)),
            },
            Aim::Command | Aim::Again => self.commanded(status, &kind, op, document, check),
            Aim::Look if status == 404 => {
                check.forgotten(self.op.as_deref().unwrap_or_default());
                self.next();
            }
            Aim::Look => self.looked(document, check),
        }
    }

    fn commanded(
        &mut self,
        status: u16,
        kind: &str,
        op: Option<String>,
        document: &Value,
        check: &mut Check,
    ) {
        match op {
            Some(op) => {
                if let Some(before) = &self.op
                    && *before != op
                {
                    check.renamed(before, &op);
                }
                if status < 300 {
                    check.told(&op, document);
                }
                if self.op.is_none() {
                    self.aim = Aim::Look;
                }
                if self.aim == Aim::Again {
                    self.aim = if self.random.chance(300) { Aim::Other } else { Aim::Look };
                    if self.stage.is_some() && self.aim == Aim::Look {
                        return self.next();
                    }
                }
                self.op = Some(op);
                self.rest(2_000);
            }
            // The other appliance has taken over: it is asked from now on. Or there is none: a greeting of a former life of this
            // one, which came late, has taken the agent from it, and it could not keep that it had the agent before. So
            // it takes no commands until it is reset.
            None if kind == "stale-epoch" => {
                self.who = usize::from(check.is_replaced);
                self.next();
            }
            None if matches!(kind, "too-busy" | "outcome-unknown" | "agent-unavailable") => self.rest(2_000),
            // Refused at the door: nothing was made of it.
            None => self.next(),
        }
    }

    fn looked(&mut self, document: &Value, check: &mut Check) {
        let op = self.op.clone().unwrap_or_default();
        if check.told(&op, document) {
            self.stage = document["state"].as_str().map(str::to_owned);
            if self.random.chance(250) {
                self.aim = Aim::Again;
                return self.rest(20_000);
            }
            return self.next();
        }
        if document["state"] == "indeterminate"
            && (check.may_be_unknown(&op) || self.net.now.get() >= self.calm)
        {
            if !check.may_be_unknown(&op) && self.who == 0 && !check.is_replaced {
                check.wrong(format!("nobody knows what became of {op}, although the agent could tell"));
            }
            return self.next();
        }
        self.rest(if document["state"] == "indeterminate" { 20_000 } else { 3_000 });
    }

    fn next(&mut self) {
        self.left -= 1;
        if self.left > 0 {
            self.choose();
            self.rest(2_000);
        }
    }
}
