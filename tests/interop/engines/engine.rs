//! What every engine needs: its script, its gateways, and the address under which the appliance knows them.

use crate::fixture::{self, Turn};
use image_launch::disk::{NBD, Server};
use image_launch::initiator::{self, Unit};
use image_launch::net::{Net, Wire};
use image_launch::process::{self, Process};
use image_launch::stage::{IQN, Stage};
use image_launch::{Error, Result, wait};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Packages over a slow line are what takes longest.
const INSTALL: Duration = Duration::from_secs(600);
const LIMIT: Duration = Duration::from_secs(120);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The size of every image here.
pub(crate) const SIZE: u64 = 32 << 20;

/// A host with one disk that nobody serves yet, `nbd://10.77.1.1:10809/`, with `portals` as further ways to it.
pub(crate) fn host(portals: &[SocketAddrV4]) -> (Stage, Turn) {
    let mut script = fixture::script(fixture::target(), 0, Server::QemuNbd);
    script.disks.clear();
    let mut set = |key: &str, value: String| script.config.push((format!("target.0.{key}"), value));
    set("iqn", format!("{IQN}:disk0"));
    set("lun", "0".into());
    set("volume", format!("nbd://{}/", place(0)));
    set("initiators", "*".into());
    if !portals.is_empty() {
        set("portals", portals.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    }
    fixture::stage(&script)
}

/// The disk as an initiator names it.
pub(crate) fn unit(stage: &Stage) -> Unit {
    Unit { portal: stage.net.portal(), iqn: format!("{IQN}:disk0"), lun: 0 }
}

/// Waits until the appliance serves the disk.
pub(crate) fn served(stage: &Stage) {
    let served = wait::until("the disk, served by the appliance", LIMIT, || {
        Ok(initiator::capacity(&stage.net, &unit(stage))
            .is_ok_and(|found| found.bytes() == SIZE)
            .then_some(()))
    });
    served.unwrap_or_else(|error| panic!("{error}\n{}", stage.appliance.console()));
}

fn path(script: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/engines").join(script)
}

/// Installs what `script` needs. Whether this user can have that engine (some need `root` for their daemons, too): if not,
/// it says why, and in CI that is a failure.
pub(crate) fn possible(script: &str, root: bool) -> bool {
    let mut install = process::command(path(script));
    install.arg("install");
    let why = if root && !rustix::process::geteuid().is_root() {
        "its daemons need root".to_string()
    } else if let Err(error) = process::check(install, INSTALL) {
        error.to_string()
    } else {
        return true;
    };
    assert!(std::env::var_os("CI").is_none(), "{script}: {why}");
    println!("not run: {script}: {why}");
    false
}

/// One engine: a script, and a folder where it keeps everything.
pub(crate) struct Engine {
    script: PathBuf,
    folder: PathBuf,
    daemons: Process,
}

impl Engine {
    /// Starts the daemons of `script` on the networks of `stage`.
    pub(crate) fn start(stage: &Stage, script: &str, words: &[&str]) -> Self {
        let name = script.trim_end_matches(".sh");
        let script = path(script);
        let start = Instant::now();
        let folder = stage.scratch.file(name);
        let mut run = stage.net.command(&script);
        run.arg("run").arg(&folder).args(words);
        let mut daemons = Process::start(name, run, &stage.scratch.file(&format!("{name}.log"))).unwrap();
        let up = wait::until(format!("{name} up"), LIMIT, || {
            daemons.must_run()?;
            Ok(daemons.output().contains("up\n").then_some(()))
        });
        up.unwrap_or_else(|error| panic!("{error}\n{}", daemons.tail()));
        println!("{name}: started in {:.1?}", start.elapsed());
        Self { script, folder, daemons }
    }

    /// Runs `VERB FOLDER WORDS...` of the script, which must succeed.
    pub(crate) fn call<S: AsRef<OsStr>>(&self, net: &Net, verb: &str, words: &[S]) -> String {
        process::check(self.command(net, verb, words), LIMIT).unwrap()
    }

    fn command<S: AsRef<OsStr>>(&self, net: &Net, verb: &str, words: &[S]) -> std::process::Command {
        let mut command = net.command(&self.script);
        command.arg(verb).arg(&self.folder).args(words);
        command
    }

    /// Starts `VERB FOLDER WORDS...` of the script, which stays.
    pub(crate) fn begin<S: AsRef<OsStr>>(&self, stage: &Stage, verb: &str, words: &[S]) -> Process {
        let words_of_name = words.iter().map(|word| word.as_ref().to_string_lossy());
        let name = std::iter::once(verb.into()).chain(words_of_name).collect::<Vec<_>>().join("-");
        let log = stage.scratch.file(&format!("{name}.log"));
        Process::start(name, self.command(&stage.net, verb, words), &log).unwrap()
    }

    /// A gateway to `image` on `address`, by the script's `verb`; returns when it listens.
    pub(crate) fn gateway(&self, stage: &Stage, verb: &str, image: &str, address: SocketAddrV4) -> Process {
        let words = [image.to_string(), address.ip().to_string(), address.port().to_string()];
        let mut gateway = self.begin(stage, verb, &words);
        stage.net.listening(&mut gateway, address, LIMIT).unwrap();
        gateway
    }

    /// The same where the networks of `stage` do not see who listens.
    pub(crate) fn gateway_elsewhere(
        &self,
        stage: &Stage,
        verb: &str,
        image: &str,
        address: SocketAddrV4,
    ) -> Process {
        let words = [image.to_string(), address.ip().to_string(), address.port().to_string()];
        let mut gateway = self.begin(stage, verb, &words);
        let answers = wait::until(format!("a gateway on {address}"), LIMIT, || {
            gateway.must_run()?;
            Ok(directly(&stage.net, address, &["read 0 512".to_string()]).is_ok().then_some(()))
        });
        answers.unwrap_or_else(|error| panic!("{error}\n{}", gateway.tail()));
        gateway
    }

    /// Kills one daemon, the way a power failure does.
    pub(crate) fn kill(&self, stage: &Stage, daemon: &str) {
        self.call(&stage.net, "kill", &[daemon]);
    }

    /// Fails if the script has ended.
    pub(crate) fn must_run(&mut self) {
        self.daemons.must_run().unwrap();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The script ends its daemons before itself; some engines' daemons leave its process group.
        self.daemons.stop();
    }
}

/// Sends `signal` to one process.
pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// An address that leads to a gateway, and that can be cut off from it while the gateway lives on.
pub(crate) struct Way {
    listen: SocketAddrV4,
    gateway: SocketAddrV4,
    forward: Option<Process>,
}

impl Way {
    /// An open way from `listen` to `gateway`.
    pub(crate) fn new(stage: &Stage, listen: SocketAddrV4, gateway: SocketAddrV4) -> Self {
        let mut way = Self { listen, gateway, forward: None };
        way.open(stage);
        way
    }

    /// Lets connections through.
    pub(crate) fn open(&mut self, stage: &Stage) {
        let mut socat = stage.net.command("socat");
        socat.arg(format!("TCP-LISTEN:{},bind={},fork,reuseaddr", self.listen.port(), self.listen.ip()));
        socat.arg(format!("TCP:{}", self.gateway));
        let log = stage.scratch.file(&format!("way-{}.log", self.listen));
        let mut forward = Process::start("socat", socat, &log).unwrap();
        stage.net.listening(&mut forward, self.listen, LIMIT).unwrap();
        self.forward = Some(forward);
    }

    /// Ends every connection and takes no new ones; the gateway's process keeps all that it has received.
    pub(crate) fn cut(&mut self) {
        self.forward = None;
    }
}

/// Place `n` for a gateway on the service network.
pub(crate) fn place(n: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Wire::Service.here(), NBD + n)
}

/// Commands of `qemu-io` on an NBD export, past the appliance.
pub(crate) fn directly(net: &Net, gateway: SocketAddrV4, commands: &[String]) -> Result<String> {
    let output = process::run(qemu_io(net, &format!("nbd://{gateway}"), commands), LIMIT)?;
    // A failed command is told in words; the exit code counts only some of them.
    if output.code != 0 || output.text().contains("fail") {
        return Error::because(output.text());
    }
    Ok(output.stdout)
}

/// `qemu-io` on `url`, which writes each line as soon as it has it.
pub(crate) fn qemu_io(net: &Net, url: &str, commands: &[String]) -> std::process::Command {
    let mut io = net.command("stdbuf");
    io.args(["-oL", "qemu-io", "-f", "raw"]);
    for command in commands {
        io.args(["-c", command]);
    }
    io.arg(url);
    io
}

/// A gateway `old` is frozen with a write in its hands; `fence` and a `new` one that writes the same block follow, then
/// the old one thaws. Whether the new gateway's write is still there, and how long it took to be written.
pub(crate) fn ghost<T>(
    stage: &Stage,
    (old, at): (&Process, SocketAddrV4),
    new: SocketAddrV4,
    switch: impl FnOnce() -> T,
) -> (bool, Duration, T) {
    let words = ["read 0 64k", "sleep 1500", "write -P 17 0 64k"].map(String::from);
    let log = stage.scratch.file(&format!("client-{at}.log"));
    let client = Process::start("client", qemu_io(&stage.net, &format!("nbd://{at}"), &words), &log).unwrap();
    sleep(SECOND);
    signal(old.pid(), Signal::STOP);
    sleep(SECOND);
    // The write lies in its socket now. The client gives up.
    drop(client);
    let start = Instant::now();
    let gateway = switch();
    let write = ["write -P 34 0 64k", "flush", "read -P 34 0 64k"].map(String::from);
    directly(&stage.net, new, &write).unwrap();
    let took = start.elapsed();
    signal(old.pid(), Signal::CONT);
    sleep(3 * SECOND);
    let kept = directly(&stage.net, new, &["read -P 34 0 64k".to_string()]).is_ok();
    (kept, took, gateway)
}

/// Whether the gateway at `address` answers a write while all storage daemons stand still: then its answer would mean that
/// the bytes are in its own memory. `write` is the command, so that it may ask for FUA.
pub(crate) fn answers_alone(stage: &Stage, engine: &Engine, address: SocketAddrV4, write: &str) -> bool {
    // A write that is flushed first: what was written before must not be the reason to wait.
    let words = ["write -P 1 0 64k", "flush", "sleep 1500", write].map(String::from);
    let log = stage.scratch.file(&format!("client-{address}.log"));
    let _ = std::fs::remove_file(&log);
    let mut client =
        Process::start("client", qemu_io(&stage.net, &format!("nbd://{address}"), &words), &log).unwrap();
    let answers =
        |client: &Process| client.output().lines().filter(|line| line.starts_with("wrote ")).count();
    wait::until("the first write", LIMIT, || Ok((answers(&client) == 1).then_some(()))).unwrap();
    engine.call::<&str>(&stage.net, "freeze", &[]);
    sleep(4 * SECOND);
    let alone = answers(&client) == 2;
    engine.call::<&str>(&stage.net, "thaw", &[]);
    let ended = client.wait(LIMIT);
    assert!(ended.is_ok_and(|status| status.success()) && answers(&client) == 2, "{}", client.output());
    alone
}
