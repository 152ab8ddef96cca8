//! The two networks of one host, made for one run: a network namespace with two TAP devices, `host` and `service`.
//!
//! Everything of a run (QEMU, NBD server, agent, initiator, curl) lives in that namespace, so runs cannot see each
//! other or the real network. As root it is a named namespace (`ip netns`); otherwise one in a user namespace,
//! where the system allows that; otherwise QEMU's user-mode network, which needs no rights but offers no offloads
//! and costs two to six times the CPU.

use crate::process::{self, Process};
use crate::scratch::{self, Scratch};
use crate::{Context, Error, Result, wait};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// The port of iSCSI (RFC 7143).
pub const ISCSI: u16 = 3260;

/// One of the two networks the appliance stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Between the appliance and the host it serves: iSCSI, and the agent.
    Host,
    /// Between the appliance and the provider: NBD, and the management API.
    Service,
}

impl Wire {
    /// The name of its TAP device, and of the NIC in QEMU.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Service => "service",
        }
    }

    /// The address of this side of it.
    #[must_use]
    pub fn here(self) -> Ipv4Addr {
        self.address(1)
    }

    /// The address of the appliance on it.
    #[must_use]
    pub fn appliance(self) -> Ipv4Addr {
        self.address(2)
    }

    /// Address number `n` of it.
    #[must_use]
    pub fn address(self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self as u8, n)
    }

    /// The MAC address of the appliance on it.
    #[must_use]
    pub fn mac(self) -> String {
        format!("52:54:00:77:{:02x}:02", self as u8)
    }
}

/// How the parts of a run reach each other.
#[derive(Debug)]
enum Access {
    /// A namespace with TAP devices; commands are prefixed to run in it.
    Taps { prefix: Vec<String>, name: Option<String> },
    /// QEMU's user-mode network: the appliance's two ports are forwarded from these on 127.0.0.1.
    User { iscsi: u16, api: u16 },
}

/// The networks of one run. Dropped, they are gone.
#[derive(Debug)]
pub struct Net {
    access: Access,
    mtu: u16,
    // Ends after everything else here: the namespace of an unprivileged run lives as long as this process.
    holder: Option<Process>,
}

/// How the networks are to be.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Whether virtual machines other than the appliance join the host-only network (through a bridge), by the TAP
    /// device `guest`.
    pub guest: bool,
    /// Whether to stay without any rights even where TAP devices could be had.
    pub user_mode: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { mtu: 1500, guest: false, user_mode: false }
    }
}

impl Net {
    /// Makes the networks in the best way this user may. Those left behind by runs that were killed are cleared
    /// away first.
    ///
    /// # Errors
    /// When the system refuses; the sentence carries what `ip` said.
    pub fn new(options: Options, scratch: &Scratch) -> Result<Self> {
        if options.user_mode {
            return Self::user(options);
        }
        let (prefix, name, holder) = if rustix::process::geteuid().is_root() {
            let name = named_namespace()?;
            (["ip", "netns", "exec", &name].map(String::from).to_vec(), Some(name), None)
        } else if let Some(holder) = user_namespace(scratch)? {
            let pid = holder.pid().to_string();
            let enter = ["nsenter", "--preserve-credentials", "--user", "--net", "--mount", "--target", &pid];
            (enter.map(String::from).to_vec(), None, Some(holder))
        } else {
            return Self::user(options);
        };
        let net = Self { access: Access::Taps { prefix, name }, mtu: options.mtu, holder };
        net.lay(options)?;
        Ok(net)
    }

    fn user(options: Options) -> Result<Self> {
        if options.guest {
            return Error::because("guests on the host-only network need TAP devices: run this as root");
        }
        let access = Access::User { iscsi: free_port()?, api: free_port()? };
        Ok(Self { access, mtu: 1500, holder: None })
    }

    /// Puts devices and addresses into the namespace.
    fn lay(&self, options: Options) -> Result<()> {
        // A host that forwards, or answers on one network for its address on the other, would hide it if the
        // appliance did.
        let mut script = String::from(
            "set -e\ncd /proc/sys/net/ipv4\necho 0 >ip_forward\nfor i in all default; do\necho 1 >conf/$i/arp_ignore\n\
             echo 1 >conf/$i/rp_filter\ndone\necho 1 >../ipv6/conf/default/disable_ipv6\nip -batch - <<EOF\nlink set lo up\n",
        );
        for wire in [Wire::Host, Wire::Service] {
            let (name, address) = (wire.name(), wire.here());
            let _ = write!(
                script,
                "tuntap add dev {name} mode tap vnet_hdr\nlink set {name} mtu {mtu} up\n",
                mtu = self.mtu
            );
            let holder = if options.guest && wire == Wire::Host { "bridge" } else { name };
            if holder == "bridge" {
                let _ = write!(
                    script,
                    "link add bridge type bridge\nlink set bridge mtu {mtu} up\nlink set host master bridge\n\
                     tuntap add dev guest mode tap vnet_hdr\nlink set guest mtu {mtu} up master bridge\n",
                    mtu = self.mtu
                );
            }
            let _ = writeln!(script, "addr add {address}/24 broadcast + dev {holder}");
        }
        script.push_str("EOF\n");
        let mut sh = self.command("sh");
        sh.args(["-c", &script]);
        process::check(sh, LIMIT).context("laying the two networks").map(drop)
    }

    /// A command whose process lives in the networks.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match &self.access {
            // Entering a namespace clears the parent-death signal, so that is asked for inside.
            Access::Taps { prefix, .. } => {
                let inner = process::command(program);
                let mut command = Command::new(&prefix[0]);
                command.args(&prefix[1..]).arg(inner.get_program()).args(inner.get_args());
                command
            }
            Access::User { .. } => process::command(program),
        }
    }

    /// What to type before a command so that it reaches the networks; ends with a space when not empty.
    #[must_use]
    pub fn prompt(&self) -> String {
        match &self.access {
            Access::Taps { prefix, .. } => prefix.join(" ") + " ",
            Access::User { .. } => String::new(),
        }
    }

    /// Whether it is QEMU's user-mode network.
    #[must_use]
    pub fn is_user_mode(&self) -> bool {
        matches!(self.access, Access::User { .. })
    }

    /// One line on how the networks are made.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.access {
            Access::Taps { name: Some(name), .. } => format!("network namespace {name}, two TAP devices"),
            Access::Taps { name: None, .. } => "an unprivileged network namespace, two TAP devices".into(),
            Access::User { .. } => {
                "QEMU's user-mode network (slow: no offloads; run as root for TAP devices)".into()
            }
        }
    }

    /// Where a server of this side must listen on `wire`, and the address under which the appliance sees it.
    ///
    /// # Errors
    /// When there is no free port (user-mode only).
    pub fn server(&self, wire: Wire, port: u16) -> Result<(SocketAddrV4, SocketAddrV4)> {
        match self.access {
            Access::Taps { .. } => {
                let address = SocketAddrV4::new(wire.here(), port);
                Ok((address, address))
            }
            Access::User { .. } => {
                let port = free_port()?;
                Ok((SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), SocketAddrV4::new(wire.here(), port)))
            }
        }
    }

    /// Where the appliance's iSCSI portal is reached from this side.
    #[must_use]
    pub fn portal(&self) -> SocketAddrV4 {
        match self.access {
            Access::Taps { .. } => SocketAddrV4::new(Wire::Host.appliance(), ISCSI),
            Access::User { iscsi, .. } => SocketAddrV4::new(Ipv4Addr::LOCALHOST, iscsi),
        }
    }

    /// Where the appliance's API is reached from this side.
    #[must_use]
    pub fn api(&self) -> SocketAddrV4 {
        match self.access {
            Access::Taps { .. } => SocketAddrV4::new(Wire::Service.appliance(), API),
            Access::User { api, .. } => SocketAddrV4::new(Ipv4Addr::LOCALHOST, api),
        }
    }

    /// The value of QEMU's `-netdev` for the appliance's NIC on `wire`, with the id `wire.name()`.
    #[must_use]
    pub fn netdev(&self, wire: Wire) -> String {
        let name = wire.name();
        match self.access {
            Access::Taps { .. } => tap(name),
            Access::User { iscsi, api } => {
                let (forwarded, port) = match wire {
                    Wire::Host => (iscsi, ISCSI),
                    Wire::Service => (api, API),
                };
                let (here, there) = (wire.here(), wire.appliance());
                format!(
                    "user,id={name},ipv6=off,net={here}/24,host={here},dhcpstart={there},\
                     hostfwd=tcp:127.0.0.1:{forwarded}-{there}:{port}"
                )
            }
        }
    }

    /// The value of QEMU's `-netdev` for a guest on the host-only network.
    #[must_use]
    pub fn guest_netdev(&self) -> String {
        tap("guest")
    }

    /// Largest IP packet, in bytes.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Waits until a server of this side listens.
    ///
    /// # Errors
    /// When `server` ended, or does not listen after `limit`.
    pub fn listening(&self, server: &mut Process, address: SocketAddrV4, limit: Duration) -> Result<()> {
        let what = format!("{} listening on {address}", server.name());
        let filter = format!("src {address}");
        let answer = wait::until(what, limit, || {
            server.must_run()?;
            let mut ss = self.command("ss");
            ss.args(["-Hltn", &filter]);
            Ok((!process::check(ss, LIMIT)?.trim().is_empty()).then_some(()))
        });
        answer.map_err(|error| Error::new(format!("{error}\n{}", server.tail())))
    }
}

/// The port of the management API.
pub const API: u16 = 8080;

impl Drop for Net {
    fn drop(&mut self) {
        if let Access::Taps { name: Some(name), .. } = &self.access {
            delete(name);
        }
        self.holder = None;
    }
}

fn tap(name: &str) -> String {
    format!("tap,id={name},ifname={name},script=no,downscript=no,vhost=off")
}

fn named_namespace() -> Result<String> {
    let mut list = process::command("ip");
    list.args(["netns", "list"]);
    for line in process::check(list, LIMIT)?.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        if scratch::is_stale(name) {
            delete(name);
        }
    }
    let name = scratch::unique();
    let mut add = process::command("ip");
    add.args(["netns", "add", &name]);
    process::check(add, LIMIT)?;
    Ok(name)
}

fn delete(name: &str) {
    let mut command = Command::new("ip");
    command.args(["netns", "delete", name]);
    // It may be gone already (two runs clear away the same stale one); there is nobody to tell.
    let _ = command.stderr(std::process::Stdio::null()).status();
}

/// A process that holds a user and a network namespace, if this system lets a user have them.
fn user_namespace(scratch: &Scratch) -> Result<Option<Process>> {
    let mut probe = process::command("unshare");
    let allowed = "ip tuntap add dev probe mode tap vnet_hdr";
    probe.args(["--user", "--map-root-user", "--net", "--mount", "sh", "-c", allowed]);
    if process::run(probe, LIMIT)?.code != 0 {
        return Ok(None);
    }
    let log = scratch.file("namespace.log");
    let mut hold = process::command("unshare");
    // The devices of the namespace are in a /sys of its own, where it may have one.
    let script = "mount -t sysfs sysfs /sys; echo ready; exec sleep infinity";
    hold.args(["--user", "--map-root-user", "--net", "--mount", "sh", "-c", script]);
    let mut holder = Process::start("namespace", hold, &log)?;
    wait::until("the namespace", LIMIT, || {
        holder.must_run()?;
        Ok(holder.output().contains("ready").then_some(()))
    })?;
    Ok(Some(holder))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port")?;
    match listener.local_addr().context("finding a free port")? {
        SocketAddr::V4(address) => Ok(address.port()),
        SocketAddr::V6(_) => Error::because("finding a free port: asked for IPv4, got IPv6"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_come_up_are_entered_and_go() {
        let scratch = Scratch::new().unwrap();
        let net = Net::new(Options { guest: true, ..Options::default() }, &scratch);
        let net = match net {
            // Where a user may not have namespaces there is nothing to look at.
            Err(error) if error.to_string().contains("root") => return,
            net => net.unwrap(),
        };
        let look = || {
            let mut ip = net.command("ip");
            ip.args(["-brief", "address"]);
            process::check(ip, LIMIT).unwrap()
        };
        let seen = look();
        assert!(seen.contains("10.77.1.1/24") && seen.contains("bridge"), "{seen}");
        let mut server = net.command("sh");
        server.args(["-c", "echo up; exec sleep 100"]);
        let mut server = Process::start("sleep", server, &scratch.file("sleep")).unwrap();
        server.must_run().unwrap();
        let name = match &net.access {
            Access::Taps { name, .. } => name.clone(),
            Access::User { .. } => None,
        };
        drop(server);
        drop(net);
        assert!(name.is_none_or(|name| !std::path::Path::new("/run/netns").join(name).exists()));
    }

    #[test]
    fn the_two_networks_share_no_address_and_no_mac() {
        assert_eq!(Wire::Host.here().to_string(), "10.77.0.1");
        assert_eq!(Wire::Service.appliance().to_string(), "10.77.1.2");
        assert_ne!(Wire::Host.mac(), Wire::Service.mac());
    }
}
