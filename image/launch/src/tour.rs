//! `cargo run`: the appliance between a storage service and a hypervisor of its own, to look at.

use crate::agent::IMAGE;
use crate::api::{self, Answer};
use crate::appliance::Kind;
use crate::disk::{Pattern, Server};
use crate::initiator;
use crate::net;
use crate::stage::{Script, Stage};
use crate::{Context, Error, Result, process, setup};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Size of the disk it makes.
const SIZE: u64 = 64 << 20;
/// The instance it makes.
const CHILD: &str = "child";
const LIMIT: Duration = Duration::from_secs(20);

/// Prints a line; a reader that has gone away (`| head`) is no reason to end otherwise than in order.
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Take the tour unattended.
    pub once: bool,
    /// The appliance's body.
    pub kind: Kind,
    /// Its memory, in MiB.
    pub memory: u32,
    /// User-mode network even where better could be had.
    pub user_network: bool,
    /// Leave the files behind.
    pub keep: bool,
    /// This program.
    pub corbel: PathBuf,
}

/// Starts everything, shows it or tours it, and ends everything.
///
/// # Errors
/// When something does not start, or the tour sees what it should not.
pub fn run(options: &Options) -> Result<()> {
    setup::ensure(setup::RUN)?;
    let mut script = Script::new(&options.corbel, options.kind, SIZE, Server::QemuNbd);
    script.memory = options.memory;
    script.agent = true;
    script.state = true;
    script.net = net::Options { user_mode: options.user_network, ..net::Options::default() };
    let began = Instant::now();
    let mut stage = Stage::set(&script)?;
    if options.keep {
        stage.scratch.keep();
    }
    stage.appliance.ready()?;
    let up = began.elapsed();
    let result = show(&mut stage, options, up);
    if options.keep {
        say!("kept: {}", stage.scratch.path().display());
    }
    result
}

fn show(stage: &mut Stage, options: &Options, up: Duration) -> Result<()> {
    create(stage)?;
    if options.once {
        return tour(stage, up);
    }
    say!("{}", screen(stage, up)?);
    while !process::interrupted() {
        stage.appliance.process().must_run()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    say!("\nending everything");
    Ok(())
}

/// Has the agent make and start the child.
fn create(stage: &Stage) -> Result<()> {
    let body = json!({ "id": CHILD, "image": IMAGE, "start": true });
    let answer = api::ask(&stage.net, "POST", "/v1/instances", Some(&body))?;
    expect(&answer, 201, "creating an instance")
}

fn expect(answer: &Answer, status: u16, doing: &str) -> Result<()> {
    if answer.status == status {
        return Ok(());
    }
    Error::because(format!("{doing}: expected status {status}, got {} {}", answer.status, answer.body))
}

/// Does what the screen invites to, and says what it saw.
fn tour(stage: &Stage, up: Duration) -> Result<()> {
    let unit = stage.unit(0);
    say!("{}, up after {} ms; {}", stage.describe(), up.as_millis(), stage.net.describe());
    let found = initiator::discover(&stage.net, stage.net.portal())?;
    let [target] = found.as_slice() else {
        return Error::because(format!("expected one target, found {found:?}"));
    };
    if (target.iqn.as_str(), target.luns.as_slice()) != (unit.iqn.as_str(), [unit.lun].as_slice()) {
        return Error::because(format!("expected {}, found {target:?}", unit.url()));
    }
    say!("discovery      {} at {}, LUN {}", target.iqn, target.portal, target.luns[0]);
    let inquiry = initiator::inquiry(&stage.net, &unit)?;
    let field = |name: &str| {
        let line = inquiry.lines().find_map(|line| line.trim().strip_prefix(name)?.trim().strip_prefix(':'));
        line.unwrap_or_default().trim().to_string()
    };
    say!("inquiry        {} {} {}", field("Vendor"), field("Product"), field("Revision"));
    let capacity = initiator::capacity(&stage.net, &unit)?;
    if capacity.bytes() != SIZE {
        return Error::because(format!("expected {SIZE} bytes, found {capacity:?}"));
    }
    say!("capacity       {} blocks of {} bytes", capacity.blocks, capacity.block);
    carry(stage)?;
    command(stage)
}

/// Writes the whole disk over iSCSI, reads it back, and compares both with each other and with the file behind NBD.
fn carry(stage: &Stage) -> Result<()> {
    let unit = stage.unit(0);
    let pattern = Pattern::write(stage.scratch.file("pattern"), u64::from(std::process::id()), SIZE)?;
    let back = stage.scratch.file("back");
    let began = Instant::now();
    initiator::write(&stage.net, pattern.path(), &unit)?;
    let written = began.elapsed();
    initiator::read(&stage.net, &unit, &back)?;
    let read = began.elapsed() - written;
    pattern.must_equal(&back).context("read back over iSCSI")?;
    pattern.must_equal(&stage.disks[0].file).context("in the storage service's file")?;
    let rate = |time: Duration| SIZE as f64 / f64::from(1 << 20) / time.as_secs_f64();
    say!(
        "write, read    {} MiB there and back, equal at both ends ({:.0} and {:.0} MiB/s)",
        SIZE >> 20,
        rate(written),
        rate(read)
    );
    Ok(())
}

/// Lists the instances, ends the child through the API and sees its process gone.
fn command(stage: &Stage) -> Result<()> {
    let agent = stage.agent.as_ref().ok_or_else(|| Error::new("the host has no agent"))?;
    let list = api::ask(&stage.net, "GET", "/v1/instances", None)?;
    expect(&list, 200, "listing instances")?;
    let instance = list.body.pointer("/instances/0").cloned().unwrap_or_default();
    let field = |name: &str| instance.get(name).and_then(Value::as_str).unwrap_or_default().to_string();
    let seen = [field("id"), field("image"), field("hypervisor"), field("state")];
    if seen != [CHILD, IMAGE, "qemu", "running"] {
        return Error::because(format!("expected one instance that runs, got {}", list.body));
    }
    let guest = agent.wait_for_guests(1, LIMIT)?[0];
    say!("instances      {} (image {}, {}) is {}: process {guest}", seen[0], seen[1], seen[2], seen[3]);
    let answer = api::ask(&stage.net, "POST", &commands(), Some(&json!({ "verb": "terminate" })))?;
    if !answer.succeeded() {
        return Error::because(format!("terminating the instance: {} {}", answer.status, answer.body));
    }
    agent.wait_for_guests(0, LIMIT).context("after terminate")?;
    say!("terminate      {}; process {guest} is gone", answer.text("/evidence/0"));
    Ok(())
}

fn commands() -> String {
    format!("/v1/instances/{CHILD}/commands")
}

/// What runs where, and what to try.
fn screen(stage: &Stage, up: Duration) -> Result<String> {
    let unit = stage.unit(0);
    let (net, url, portal, api) = (&stage.net, unit.url(), stage.net.portal(), stage.net.api());
    let prompt = net.prompt();
    let agent = stage.agent.as_ref().ok_or_else(|| Error::new("the host has no agent"))?;
    let guests = agent.wait_for_guests(1, LIMIT)?;
    let corbel = std::env::current_exe().context("finding this program")?;
    let corbel = corbel.display();
    Ok(format!(
        "
 the appliance is up after {up} ms: {body}
 in {how}

   storage service   {uri} (qemu-nbd), {size} MiB in {file}
        │ service network
   appliance         API http://{api}/v1, iSCSI {portal}
        │ host-only network
   agent             {seen}, instance `{CHILD}` is QEMU process {guest}

 Try, in another terminal:

   {prompt}iscsi-ls --show-luns iscsi://{portal}
   {prompt}iscsi-inq {url}
   {prompt}qemu-io -f raw -c 'write -P 0x42 0 1M' -c 'read -v 0 64' {url}
   {prompt}{corbel} ctl --url http://{api} instances
   {prompt}{corbel} ctl --url http://{api} why {CHILD}
   {prompt}{corbel} ctl --url http://{api} terminate {CHILD} --wait
   {prompt}curl http://{api}/v1/instances

 Console and logs: {scratch}
 Ctrl-C ends everything.",
        up = up.as_millis(),
        body = stage.describe(),
        how = net.describe(),
        uri = stage.servers[0].uri(),
        size = SIZE >> 20,
        file = stage.disks[0].file.display(),
        seen = agent.seen(),
        guest = guests[0],
        scratch = stage.scratch.path().display(),
    ))
}
