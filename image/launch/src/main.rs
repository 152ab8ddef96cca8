//! `corbel`: the appliance on this machine, for a look at it, and the roles that the look needs.
#![forbid(unsafe_code)]

use image_launch::appliance::Kind;
use image_launch::images::{self, Order};
use image_launch::machine::Board;
use image_launch::tour::{self, Options};
use image_launch::{Context, Error, Result, setup};
use std::process::ExitCode;

const HELP: &str = "\
corbel: the control-plane appliance of a cloud host, on this machine

cargo run [-- OPTIONS]          boots the appliance between a storage service and a hypervisor of its own, shows
                                what runs where and what to try, and ends it all on Ctrl-C
  --once                        takes the tour by itself, prints what it saw, and ends; non-zero on any surprise
  --machine NAME                q35 (default), pc or microvm
  --hosted                      the same appliance as a process instead of a virtual machine
  --memory MIB                  memory of the virtual machine (default 64)
  --user-network                QEMU's user-mode network even where TAP devices could be had
  --keep                        leaves consoles, logs and disks behind, and says where

cargo run -- setup [tests|bench]    only installs what is needed (for the tests, for the benchmark)
cargo run -- image                  prints where the image is
cargo run -- images DIR [OPTIONS]   writes the image in every form that a hypervisor takes, with what to tell each, its parts
                                    and checksums
  --config FILE                     the configuration that is put on its disks, which nobody else can read then
  --sign KEY CERTIFICATE            signs it for Secure Boot (PEM, both)
cargo run -- agent OPTIONS          the agent of the parent partition (see agent/README.md)
cargo run -- hosted OPTIONS         the appliance as a process over two TAP devices
cargo run -- ctl COMMAND            corbelctl, which commands an appliance (see management/ctl/README.md)
";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    let role = words.next_if(|word| !word.starts_with('-'));
    let result = match role.as_deref() {
        Some("agent") => return agent::main(std::env::args_os().skip(2)),
        Some("hosted") => return image_appliance::hosted::main(words),
        Some("ctl") => {
            let words = std::env::args_os().skip(2);
            return management_ctl::main(std::iter::once("corbelctl".into()).chain(words));
        }
        Some("setup") => install(words.next().as_deref()),
        Some("images") => images(words),
        Some("image") => image_launch::image().map(|image| println!("{}", image.display())),
        Some("help") => help(),
        Some(other) => Error::because(format!("there is no `{other}`\n\n{HELP}")),
        None => options(words).and_then(|options| options.map_or_else(help, |options| tour::run(&options))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("corbel: {error}");
            ExitCode::FAILURE
        }
    }
}

fn help() -> Result<()> {
    print!("{HELP}");
    Ok(())
}

/// `None` when help was asked for.
fn options(mut words: impl Iterator<Item = String>) -> Result<Option<Options>> {
    let corbel = std::env::current_exe().context("finding this program")?;
    let (mut board, mut hosted) = (None, false);
    let mut options =
        Options { once: false, kind: Kind::default(), memory: 64, user_network: false, keep: false, corbel };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| Error::new(format!("{word} wants a value")));
        match word.as_str() {
            "--help" | "-h" => return Ok(None),
            "--once" => options.once = true,
            "--keep" => options.keep = true,
            "--user-network" => options.user_network = true,
            "--hosted" => hosted = true,
            "--machine" => board = Some(value()?.parse::<Board>()?),
            "--memory" => options.memory = value()?.parse().context("--memory")?,
            other => return Error::because(format!("there is no option {other}\n\n{HELP}")),
        }
    }
    options.kind = match (hosted, board) {
        (true, Some(_)) => return Error::because("--hosted is no virtual machine: leave --machine away"),
        (true, None) => Kind::Hosted,
        (false, board) => Kind::Image(board.unwrap_or_default()),
    };
    Ok(Some(options))
}

fn images(mut words: impl Iterator<Item = String>) -> Result<()> {
    let folder = words.next().filter(|word| !word.starts_with('-'));
    let folder = folder.ok_or_else(|| Error::new(format!("images: where to?\n\n{HELP}")))?;
    let mut order = Order { folder: folder.into(), config: None, signer: None };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| Error::new(format!("{word} wants a value")));
        match word.as_str() {
            "--config" => order.config = Some(value()?.into()),
            "--sign" => order.signer = Some((value()?.into(), value()?.into())),
            other => return Error::because(format!("images: there is no option {other}\n\n{HELP}")),
        }
    }
    for name in images::write(&order)? {
        println!("{}", order.folder.join(name).display());
    }
    Ok(())
}

fn install(what: Option<&str>) -> Result<()> {
    let more = match what {
        None => &[],
        Some("tests") => setup::TESTS,
        Some("bench") => setup::BENCH,
        Some(other) => {
            return Error::because(format!(
                "there is `setup`, `setup tests` and `setup bench`, no `{other}`"
            ));
        }
    };
    setup::ensure(&[setup::RUN, more].concat())?;
    println!("all that is needed is there");
    Ok(())
}
