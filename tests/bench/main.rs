//! The benchmark: our image and, beside it in the same run, the Linux peer (LIO), under the same QEMU.
//!
//! It prints boot time to the first served INQUIRY, the smallest memory that serves, the size of what is booted, and
//! throughput. Ratios hold on a noisy machine, absolute figures do not.
#![forbid(unsafe_code)]

use image_launch::machine::Board;
use image_launch::net::Wire;
use image_launch::{Context, Error, Result, process, setup};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo bench-peer [OPTIONS] [-- OPTIONS OF bench.py]

  --quick             one short sample of each figure instead of medians of several
  --only PART         boot, memory, size or load instead of all
  --machine NAME      q35 (default), pc or microvm for our image; the peer stays on q35
  --memory MIB        memory of our image (default 64)
  --image FILE        another image than the one built here
";

struct Options {
    quick: bool,
    only: Option<String>,
    board: Board,
    memory: u32,
    image: Option<PathBuf>,
    rest: Vec<String>,
}

fn main() -> ExitCode {
    match options().and_then(|options| options.map_or(Ok(()), |options| bench(&options))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Option<Options>> {
    let mut options =
        Options { quick: false, only: None, board: Board::Q35, memory: 64, image: None, rest: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| Error::new(format!("{word} wants a value")));
        match word.as_str() {
            "--quick" => options.quick = true,
            "--only" => options.only = Some(value()?),
            "--machine" => options.board = value()?.parse()?,
            "--memory" => options.memory = value()?.parse().context("--memory")?,
            "--image" => options.image = Some(value()?.into()),
            "--help" | "-h" => {
                print!("{HELP}");
                return Ok(None);
            }
            "--" => options.rest.extend(words.by_ref()),
            other => return Error::because(format!("unknown option {other}\n\n{HELP}")),
        }
    }
    Ok(Some(options))
}

fn bench(options: &Options) -> Result<()> {
    setup::ensure(setup::RUN)?;
    setup::ensure(setup::BENCH)?;
    if !rustix::process::geteuid().is_root() {
        return Error::because("the benchmark lays TAP devices: run it as root");
    }
    let image = match &options.image {
        Some(image) => image.clone(),
        None => image_launch::image()?,
    };
    let out = std::env::temp_dir().join("corbel-peer");
    fs::create_dir_all(&out).context(out.display())?;
    if !out.join("img/lio.img").exists() {
        println!("building the Linux peer from Debian packages");
        run(python("mkpeer.py").arg("--out").arg(&out))?;
    }
    let result = parts(options, &image, &out);
    clear();
    result
}

fn parts(options: &Options, image: &Path, out: &Path) -> Result<()> {
    let wanted = |part: &str| options.only.as_deref().is_none_or(|only| only == part);
    let ours = format!("ours={}", fragment(options, image));
    let (boots, loads) = if options.quick { ("1", "1") } else { ("5", "3") };
    if wanted("size") {
        sizes(image, out)?;
    }
    if wanted("boot") {
        println!("\n== boot: from QEMU's start to the first login and INQUIRY");
        measure(options, out, &["boot", "lio", &ours, "--reps", boots])?;
    }
    if wanted("memory") {
        println!("\n== memory: the smallest -m in which it serves");
        measure(options, out, &["minmem", "lio", &ours, "--mem", "128"])?;
    }
    if wanted("load") {
        println!("\n== load");
        let (seconds, idle) = if options.quick { ("2", "3") } else { ("4", "30") };
        measure(options, out, &["load", "lio", &ours, "--reps", loads, "--dur", seconds, "--idle", idle])?;
    }
    Ok(())
}

/// The QEMU arguments of our image, with the places that bench.py fills in.
fn fragment(options: &Options, image: &Path) -> String {
    let config = [
        "host.address={ip0}/24".to_string(),
        format!("host.mac={}", Wire::Host.mac()),
        "service.address={ip1}/24".to_string(),
        format!("service.mac={}", Wire::Service.mac()),
        "target.0.iqn={iqn}".to_string(),
        "target.0.lun=0".to_string(),
        "target.0.volume=nbd://{nbd}/".to_string(),
        "target.0.initiators=*".to_string(),
        "log=warn".to_string(),
    ];
    format!(
        "-M {} -smp 1 -m {} -kernel {} -append \"{}\"",
        options.board.machine(),
        options.memory,
        image.display(),
        config.join(" ")
    )
}

fn sizes(image: &Path, out: &Path) -> Result<()> {
    println!("\n== size: what the hypervisor is given to boot");
    let size = |path: &Path| fs::metadata(path).map(|meta| meta.len()).context(path.display());
    let peer = size(&out.join("img/vmlinuz"))? + size(&out.join("img/lio.img"))?;
    let ours = size(image)?;
    let kib = |bytes: u64| bytes.div_ceil(1024);
    println!("ours {} KiB, lio {} KiB: 1/{}", kib(ours), kib(peer), peer / ours.max(1));
    Ok(())
}

fn measure(options: &Options, out: &Path, words: &[&str]) -> Result<()> {
    let mut command = python("bench.py");
    command.args(words).arg("--out").arg(out).args(["--patience", if options.quick { "5" } else { "120" }]);
    run(command.args(&options.rest))
}

fn python(script: &str) -> Command {
    let mut command = process::command("python3");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/bench/peer").join(script));
    command.env("PEER_NS", namespace());
    command
}

/// Runs a command that speaks for itself.
fn run(command: &mut Command) -> Result<()> {
    let shown = process::show(command);
    let status = command.status().context(&shown)?;
    if status.success() { Ok(()) } else { Error::because(format!("`{shown}`: {status}")) }
}

/// The network namespace of this run, by which bench.py also names its disk.
fn namespace() -> String {
    format!("bench-{}", std::process::id())
}

/// Takes away what bench.py leaves for the next of its runs: a namespace, and a disk in memory.
fn clear() {
    let name = namespace();
    let _ = Command::new("ip").args(["netns", "delete", &name]).status();
    let _ = fs::remove_file(format!("/dev/shm/{name}.raw"));
}
