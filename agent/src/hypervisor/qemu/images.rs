//! The operator's table of images: the only place where paths and arguments stand.

use super::super::Machine;
use super::super::migration::Migration;
use super::super::operator::without_repetition;
use super::board::Board;
use agent_protocol::{ImageName, NetworkName};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The part of the operator's file that concerns QEMU.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    /// The program, by its absolute path.
    pub(super) executable: PathBuf,
    #[serde(deserialize_with = "without_repetition")]
    pub(super) images: BTreeMap<ImageName, Image>,
    /// Where the appliance's targets are; without it no disk can be attached.
    #[serde(default)]
    pub(super) portal: Option<SocketAddr>,
    /// What interfaces can be attached to.
    #[serde(default, deserialize_with = "without_repetition")]
    pub(super) networks: BTreeMap<NetworkName, Network>,
    /// Where machines may move to, and where they are received.
    #[serde(default)]
    pub(super) migration: Option<Migration>,
}

/// What a network name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// QEMU's own user-mode network, behind the host's address.
    User,
    /// A bridge of the host, by the name of its device. The interface gets a TAP device of its own there, which takes
    /// the right to administer the host's network (`CAP_NET_ADMIN`).
    Bridge(String),
}

impl Network {
    /// Whether the host can have a device of that name, and no program could take it for an option.
    fn is_possible(&self) -> bool {
        let Self::Bridge(name) = self else { return true };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        (1..=15).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with(['-', '.'])
    }
}

/// What an image name stands for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Image {
    /// Handed to the program as they are, but for the placeholders.
    arguments: Vec<String>,
    /// Run it in QEMU's own seccomp sandbox.
    #[serde(default = "yes")]
    pub(super) sandbox: bool,
}

const fn yes() -> bool {
    true
}

/// What the agent sets itself; set twice, the wrong one might win.
const RESERVED: [&str; 16] = [
    "S",
    "chroot",
    "daemonize",
    "display",
    "incoming",
    "name",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nographic",
    "pidfile",
    "qmp",
    "qmp-pretty",
    "runas",
    "sandbox",
    "uuid",
];

impl Images {
    /// Whether the table can be used; otherwise what is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        if !self.executable.is_absolute() || !self.executable.is_file() {
            return Err(format!(
                "qemu.executable: {} is not the absolute path of a file",
                self.executable.display()
            ));
        }
        for (name, image) in &self.images {
            let options = image.arguments.iter().filter_map(|argument| argument.strip_prefix('-'));
            let mut options = options.map(|option| option.strip_prefix('-').unwrap_or(option));
            if let Some(option) = options.find(|option| RESERVED.contains(option)) {
                return Err(format!("qemu.images.{name}: -{option} is set by the agent"));
            }
            if image.arguments.iter().any(|argument| argument.contains('\0')) {
                return Err(format!("qemu.images.{name}: an argument holds a NUL"));
            }
        }
        if let Some((name, _)) = self.networks.iter().find(|(_, network)| !network.is_possible()) {
            return Err(format!("qemu.networks.{name}: that is not the name of a device of this host"));
        }
        if let Some(Err(what)) = self.migration.as_ref().map(Migration::check) {
            return Err(format!("qemu.{what}"));
        }
        Ok(())
    }
}

impl Image {
    /// Its board.
    pub(super) fn board(&self) -> Board {
        Board::of(&self.arguments)
    }

    /// Whether it says itself what its first serial port is.
    pub(super) fn has_serial(&self) -> bool {
        let own = |argument: &String| {
            matches!(argument.as_str(), "-serial" | "--serial") || argument.contains("isa-serial")
        };
        self.arguments.iter().any(own)
    }

    /// Its arguments for one machine, whose files are in `directory`.
    pub(super) fn arguments(&self, machine: &Machine, directory: &Path) -> Vec<String> {
        let directory = directory.to_string_lossy();
        let fill = |argument: &String| {
            argument
                .replace("{id}", machine.id.as_str())
                .replace("{uuid}", &machine.uuid.to_string())
                .replace("{directory}", &directory)
        };
        self.arguments.iter().map(fill).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::Uuid;

    fn parse(images: &str) -> Result<Images, String> {
        let text = format!(r#"{{"executable":"/bin/sh","images":{images}}}"#);
        let images: Images = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        images.check().map(|()| images)
    }

    #[test]
    fn placeholders_are_filled_and_other_braces_are_left_alone() {
        let images =
            parse(r#"{"a":{"arguments":["-device","{\"id\":1}","file={directory}/{id}-{uuid}"]}}"#).unwrap();
        let machine = Machine::new("web".parse().unwrap(), Uuid(1), "a".parse().unwrap());
        let arguments = images.images[&machine.image].arguments(&machine, Path::new("/run/x"));
        assert_eq!(
            arguments,
            ["-device", "{\"id\":1}", "file=/run/x/web-00000000-0000-0000-0000-000000000001"]
        );
    }

    #[test]
    fn an_image_keeps_a_serial_port_of_its_own() {
        let table = r#"{"a":{"arguments":["-serial","null"]},"b":{"arguments":["-device","isa-serial,chardev=x"]},
            "c":{"arguments":["-device","virtio-blk-pci,drive=x,serial=y"]}}"#;
        let images = parse(table).unwrap();
        let has: Vec<bool> = images.images.values().map(Image::has_serial).collect();
        assert_eq!(has, [true, true, false]);
    }

    #[test]
    fn a_table_that_cannot_be_meant_is_refused() {
        for images in [
            r#"{"a":{"arguments":["-qmp","stdio"]}}"#,
            r#"{"a":{"arguments":["--daemonize"]}}"#,
            r#"{"a":{"arguments":["-S"]}}"#,
            r#"{"a":{"arguments":[]},"a":{"arguments":[]}}"#,
            r#"{"../a":{"arguments":[]}}"#,
            r#"{"a":{"arguments":[],"shell":"x"}}"#,
            r#"{"a":{"arguments":["a\u0000b"]}}"#,
            r#"{"a":{}}"#,
        ] {
            assert!(parse(images).is_err(), "{images}");
        }
        for networks in
            [r#"{"a":"user","a":"user"}"#, r#"{"a":{"bridge":"-br"}}"#, r#"{"a":{"bridge":"br/0"}}"#]
        {
            let text = format!(r#"{{"executable":"/bin/sh","images":{{}},"networks":{networks}}}"#);
            let images = serde_json::from_str::<Images>(&text).map_err(|error| error.to_string());
            assert!(images.and_then(|images| images.check()).is_err(), "{networks}");
        }
        let relative = r#"{"executable":"qemu","images":{}}"#;
        assert!(serde_json::from_str::<Images>(relative).unwrap().check().is_err());
    }
}
