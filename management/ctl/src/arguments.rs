//! The command line: every command, argument and option, and the words that explain them.

use crate::screen::Colour;
use crate::settings::Connection;
use crate::span;
use agent_protocol::{
    ImageName, InstanceId, IscsiName, Link, Mac, NetworkName, NicName, OpId, PeerName, SnapshotName, State,
    Uuid, VolumeName,
};
use clap::{Args, CommandFactory, Parser, Subcommand};
use management_api::audit::Anchor;
use management_api::{Access, TargetId};
use std::path::PathBuf;
use std::time::Duration;

mod networks;
mod values;

pub(crate) use networks::{NetworkAction, NetworkTerms, Networks};

use values::{access, anchor, iscsi_name, link, mac, memory, name, state, token, uuid};

const AFTER: &str = "\
Which appliance: --url, or CORBEL_URL, or a host of ~/.config/corbel/ctl.toml:

  default = \"lab\"

  [hosts.lab]
  url = \"https://192.0.2.7:8443\"
  ca = \"ca.pem\"       # files are looked for beside this one
  cert = \"me.pem\"
  key = \"me.key\"

Examples:
  corbelctl status
  corbelctl create web-1 --image debian --start --wait
  corbelctl stop web-1 --timeout 2m --force --wait
  corbelctl why web-1

Exit codes:
  0  done, or accepted where nobody waits
  1  refused, or tried and failed
  2  the command line is wrong
  3  the outcome is not known, or not yet
  4  the appliance could not be asked: nothing was done";

const BELOW: &str = "Options for the connection and the output: see corbelctl --help";

/// The command line; where it is about one command (`of_one`), the help has only what is that command's own.
pub(crate) fn command(of_one: bool) -> clap::Command {
    let command = Arguments::command();
    if !of_one {
        return command;
    }
    let elsewhere = |arg: clap::Arg| {
        let heading = arg.get_help_heading();
        let hidden = matches!(heading, Some("Connection" | "Output"));
        arg.hide(hidden)
    };
    below(command.mut_args(elsewhere))
}

fn below(command: clap::Command) -> clap::Command {
    command.mut_subcommands(|sub| below(sub.after_help(BELOW)))
}

/// Commands a Corbel appliance: the instances, disks and networks of one host.
#[derive(Debug, Parser)]
#[command(name = "corbelctl", version, after_help = AFTER, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = false)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How things are shown.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Output {
    /// Print the appliance's own JSON, with keys in order
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Show each request and answer on standard error
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = Colour::Auto, hide_possible_values = true)]
    pub(crate) color: Colour,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show whether the appliance and its agent are ready
    #[command(visible_alias = "about")]
    Status,
    /// List the instances
    #[command(visible_alias = "ls")]
    Instances(Instances),
    /// Show one instance with its disks and interfaces
    Instance(Named),
    /// Show what an instance has used since it was started
    Stats(Named),
    /// Show what a guest wrote to its console lately
    Console(Console),
    /// Explain an instance: its state, last operations and events, and what to do
    Why(Named),
    /// List the images that instances can be made of
    Images,
    /// Make an instance
    Create(Create),
    /// Run instances that are stopped
    Start(Several),
    /// Ask guests to shut down; with --force cut their power when they do not
    Stop(Stop),
    /// Hold the processors of instances
    Pause(Several),
    /// Let paused instances go on
    Resume(Several),
    /// Have a guest shut down, then run it again
    Reboot(Stop),
    /// Restart the processors of instances without asking the guest
    Reset(Several),
    /// Write the memory of instances out and run nothing of them any more
    Save(Several),
    /// Let saved instances go on from where they were
    Restore(Several),
    /// Keep an instance as it is under a name
    Snapshot(Snapshot),
    /// Go back to a snapshot
    Revert(Snapshot),
    /// Change the processors or the memory of an instance
    Resize(Resize),
    /// End instances for good, without asking the guest
    Terminate(Terminate),
    /// Give an instance disks, and take them away
    #[command(subcommand)]
    Volume(Volume),
    /// Give an instance network interfaces, and take them away
    #[command(subcommand)]
    Nic(Nic),
    /// Move an instance to another host
    #[command(subcommand)]
    Migrate(Migrate),
    /// List, expose and withdraw the disks that initiators may use
    Targets(Targets),
    /// List, show, apply and remove the maps of networks
    Networks(Networks),
    /// List operations, the latest first
    Operations(Operations),
    /// Show one operation
    Operation(Operation),
    /// Call off an operation that has not been sent to the agent yet
    Cancel {
        /// The operation
        #[arg(value_parser = name::<OpId>)]
        id: OpId,
        #[command(flatten)]
        dry: Dry,
    },
    /// Show what has happened, the oldest first
    Events(Events),
    /// Show who did what, and verify that nobody has changed the trail
    Audit(Audit),
    /// Show the host: its agent, its capacity, and whether it takes new instances
    Host,
    /// Let the host take no new instances
    Drain {
        /// Let it take some again
        #[arg(long)]
        off: bool,
        #[command(flatten)]
        dry: Dry,
    },
    /// Give the appliance its first certificate; --pin takes the place of --ca until then
    Enrol(Enrol),
    /// Show the appliance's certificate, or have it make a new key
    Keys(Keys),
    /// Show what each hypervisor can do, and how
    Capabilities,
    /// List every problem the appliance may answer with, and what to do about each
    Problems,
    /// Print the figures for Prometheus
    Metrics,
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

/// Whether it is meant.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Dry {
    /// Only ask whether it would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// One instance.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The instance
    #[arg(value_parser = name::<InstanceId>)]
    pub(crate) name: InstanceId,
}

#[derive(Debug, Args)]
pub(crate) struct Console {
    #[command(flatten)]
    pub(crate) of: Named,
    /// Go on showing what it writes
    #[arg(short, long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Instances {
    /// Show them again and again
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Only those in this state; may be given several times
    #[arg(long, value_name = "STATE", value_parser = state)]
    pub(crate) state: Vec<State>,
    /// Those that were terminated lately as well
    #[arg(short, long)]
    pub(crate) all: bool,
}

/// The conditions under which a command is carried out, and how long we wait for it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Conditions")]
pub(crate) struct Terms {
    /// Wait until it has ended, at most so long (--wait=2m) if a time is given
    #[arg(short, long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = span::parse)]
    pub(crate) wait: Option<Option<Duration>>,
    /// Only ask whether it would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Only if the instance is in this state
    #[arg(long, value_name = "STATE", value_parser = state)]
    pub(crate) if_state: Option<State>,
    /// Only if the instance has this generation
    #[arg(long, value_name = "NUMBER")]
    pub(crate) if_generation: Option<u64>,
    /// Only if it is this incarnation of its name
    #[arg(long, value_name = "UUID", value_parser = uuid)]
    pub(crate) if_uuid: Option<Uuid>,
    /// Do nothing if it cannot be begun within this time [default: 25s]
    #[arg(long, value_name = "TIME", value_parser = span::parse)]
    pub(crate) deadline: Option<Duration>,
    /// A name for this request: said again with the same name, it is the same and is not done twice
    /// [default: a random one]
    #[arg(long, value_parser = token)]
    pub(crate) token: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Several {
    /// The instances
    #[arg(required = true, value_name = "NAME", value_parser = name::<InstanceId>)]
    pub(crate) names: Vec<InstanceId>,
    #[command(flatten)]
    pub(crate) terms: Terms,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// What the instance is to be called
    #[arg(value_parser = name::<InstanceId>)]
    pub(crate) name: InstanceId,
    /// What it is made of (see `corbelctl images`)
    #[arg(long, value_parser = name::<ImageName>)]
    pub(crate) image: ImageName,
    /// Run it at once
    #[arg(long)]
    pub(crate) start: bool,
    #[command(flatten)]
    pub(crate) size: Size,
    #[command(flatten)]
    pub(crate) terms: Terms,
}

#[derive(Debug, Args)]
pub(crate) struct Size {
    /// Virtual processors
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) cpus: Option<u16>,
    /// Memory, in MiB or like 4G
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub(crate) memory: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// The instances
    #[arg(required = true, value_name = "NAME", value_parser = name::<InstanceId>)]
    pub(crate) names: Vec<InstanceId>,
    /// How long the guest has to shut down
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = span::parse)]
    pub(crate) timeout: Duration,
    /// Cut the power when it has not by then; with --timeout 0 at once
    #[arg(short, long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) terms: Terms,
}

#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    /// The instance
    #[arg(value_parser = name::<InstanceId>)]
    pub(crate) name: InstanceId,
    /// The snapshot
    #[arg(value_parser = name::<SnapshotName>)]
    pub(crate) snapshot: SnapshotName,
    #[command(flatten)]
    pub(crate) terms: Terms,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("size").required(true).multiple(true).args(["cpus", "memory"]))]
pub(crate) struct Resize {
    /// The instance
    #[arg(value_parser = name::<InstanceId>)]
    pub(crate) name: InstanceId,
    #[command(flatten)]
    pub(crate) size: Size,
    #[command(flatten)]
    pub(crate) terms: Terms,
}

#[derive(Debug, Args)]
pub(crate) struct Terminate {
    /// The instances
    #[arg(value_name = "NAME", required_unless_present = "from", value_parser = name::<InstanceId>)]
    pub(crate) names: Vec<InstanceId>,
    /// A file with more names, one a line; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// Do not ask whether several are meant
    #[arg(short, long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) terms: Terms,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Volume {
    /// Give an instance a disk: a target of this appliance
    Attach {
        /// The instance
        #[arg(value_parser = name::<InstanceId>)]
        name: InstanceId,
        /// The target (see `corbelctl targets`)
        #[arg(value_parser = name::<TargetId>)]
        target: TargetId,
        /// What the disk is to be called within the instance [default: the target's name]
        #[arg(long = "as", value_name = "DISK", value_parser = name::<VolumeName>)]
        called: Option<VolumeName>,
        /// The guest may not write to it
        #[arg(long)]
        read_only: bool,
        #[command(flatten)]
        terms: Terms,
    },
    /// Take a disk from an instance; done when the guest has let go of it
    Detach {
        #[command(flatten)]
        of: DiskOf,
        /// How long the guest has to let go
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = span::parse)]
        timeout: Duration,
        #[command(flatten)]
        terms: Terms,
    },
    /// Look at a disk's size anew and tell the guest
    Resize {
        #[command(flatten)]
        of: DiskOf,
        #[command(flatten)]
        terms: Terms,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DiskOf {
    /// The instance
    #[arg(value_parser = name::<InstanceId>)]
    pub(crate) name: InstanceId,
    /// What the disk is called within the instance
    #[arg(value_name = "DISK", value_parser = name::<VolumeName>)]
    pub(crate) volume: VolumeName,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Nic {
    /// Give an instance a network interface
    Attach {
        #[command(flatten)]
        of: NicOf,
        /// The network, by its name at the agent
        #[arg(long, value_parser = name::<NetworkName>)]
        network: NetworkName,
        /// Its Ethernet address
        #[arg(long, value_parser = mac)]
        mac: Mac,
        /// Whether its cable is plugged in
        #[arg(long, value_name = "up|down", default_value = "up", value_parser = link)]
        link: Link,
        #[command(flatten)]
        terms: Terms,
    },
    /// Take a network interface from an instance; done when the guest has let go of it
    Detach {
        #[command(flatten)]
        of: NicOf,
        /// How long the guest has to let go
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = span::parse)]
        timeout: Duration,
        #[command(flatten)]
        terms: Terms,
    },
    /// Plug or unplug the cable of a network interface
    Update {
        #[command(flatten)]
        of: NicOf,
        /// Whether its cable is to be plugged in
        #[arg(long, value_name = "up|down", value_parser = link)]
        link: Link,
        #[command(flatten)]
        terms: Terms,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NicOf {
    /// The instance
    #[arg(value_parser = name::<InstanceId>)]
    pub(crate) name: InstanceId,
    /// What the interface is called within the instance
    #[arg(value_parser = name::<NicName>)]
    pub(crate) nic: NicName,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Migrate {
    /// Make this host ready to receive an instance: a new one, or one that was created and never started
    Prepare {
        #[command(flatten)]
        of: Named,
        /// The image it was made of
        #[arg(long, value_parser = name::<ImageName>)]
        image: ImageName,
        /// Its UUID at the host that it comes from, which it keeps
        #[arg(long, value_parser = uuid)]
        uuid: Uuid,
        #[command(flatten)]
        terms: Terms,
    },
    /// Move an instance to another host while it runs; when that is done it is terminated here
    Start {
        #[command(flatten)]
        of: Named,
        /// The other host, by its name at the agent
        #[arg(long, value_name = "HOST", value_parser = name::<PeerName>)]
        to: PeerName,
        #[command(flatten)]
        terms: Terms,
    },
    /// Stop moving it: it goes on here. Of one that was handed over and has not arrived for certain, only with
    /// --if-generation as it stands, and when it does not run at the other host
    Cancel {
        #[command(flatten)]
        of: Named,
        #[command(flatten)]
        terms: Terms,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Targets {
    #[command(subcommand)]
    pub(crate) action: Option<TargetAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TargetAction {
    /// List the targets
    List,
    /// Show one target
    Show(TargetNamed),
    /// Offer a disk to initiators
    Expose(Box<Expose>),
    /// Offer a disk no longer; refused while a session is logged in
    Withdraw {
        #[command(flatten)]
        target: TargetNamed,
        /// Ask initiators to log out, and withdraw it when they have or this time is over
        #[arg(long, value_name = "TIME", value_parser = span::parse)]
        grace: Option<Duration>,
        #[command(flatten)]
        dry: Dry,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TargetNamed {
    /// The target
    #[arg(value_parser = name::<TargetId>)]
    pub(crate) id: TargetId,
}

#[derive(Debug, Args)]
pub(crate) struct Expose {
    #[command(flatten)]
    pub(crate) target: TargetNamed,
    /// The iSCSI name that initiators find it by
    #[arg(long, value_parser = iscsi_name)]
    pub(crate) iqn: IscsiName,
    /// The logical unit
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) lun: u16,
    /// Where the bytes are, such as nbd://192.0.2.9/disk
    #[arg(long, value_name = "URI")]
    pub(crate) volume: String,
    /// An initiator that may log in, or * for any; may be given several times
    #[arg(long = "initiator", value_name = "IQN", required = true)]
    pub(crate) initiators: Vec<String>,
    /// Nobody may write to it
    #[arg(long)]
    pub(crate) read_only: bool,
    /// The medium can be taken out
    #[arg(long)]
    pub(crate) removable: bool,
    /// How initiators should use this way to the disk: optimized, non-optimized or standby
    #[arg(long, value_name = "STATE", value_parser = access)]
    pub(crate) access: Option<Access>,
    /// A JSON file with what initiators have to prove (CHAP); secrets do not belong on a command line
    #[arg(long, value_name = "FILE")]
    pub(crate) chap: Option<PathBuf>,
    /// At most so many reads and writes a second
    #[arg(long, value_name = "NUMBER")]
    pub(crate) iops: Option<u32>,
    /// The number of this description, larger than that of the one before [default: the next one]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) generation: Option<u64>,
    /// At most so many bytes a second
    #[arg(long, value_name = "BYTES")]
    pub(crate) bandwidth: Option<u64>,
    #[command(flatten)]
    pub(crate) dry: Dry,
}

#[derive(Debug, Args)]
pub(crate) struct Operations {
    /// At most so many
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 20)]
    pub(crate) limit: usize,
    /// Only those of this instance
    #[arg(long, value_name = "NAME", value_parser = name::<InstanceId>)]
    pub(crate) instance: Option<InstanceId>,
}

#[derive(Debug, Args)]
pub(crate) struct Operation {
    /// The operation
    #[arg(value_parser = name::<OpId>)]
    pub(crate) id: OpId,
    /// Wait until it has ended, at most so long (--wait=2m) if a time is given
    #[arg(short, long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = span::parse)]
    pub(crate) wait: Option<Option<Duration>>,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Go on showing them as they come
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only those after this number
    #[arg(long, value_name = "NUMBER")]
    pub(crate) after: Option<u64>,
    /// Only those of this instance, target or network
    #[arg(long, value_name = "NAME", value_parser = name::<InstanceId>)]
    pub(crate) of: Option<InstanceId>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Audit {
    #[command(subcommand)]
    pub(crate) action: Option<AuditAction>,
    #[command(flatten)]
    pub(crate) list: AuditList,
}

#[derive(Debug, Args)]
pub(crate) struct AuditList {
    /// Only those after this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) after: u64,
    /// Only those of this caller, as the list shows it
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) by: Option<String>,
    /// Only those that were denied
    #[arg(long)]
    pub(crate) denied: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditAction {
    /// List the records, the oldest first; with --json they can be verified later
    List(AuditList),
    /// Check that no record was altered, dropped or moved (exit code 1 when one was)
    Verify(AuditVerify),
}

#[derive(Debug, Args)]
pub(crate) struct AuditVerify {
    /// A file that `corbelctl audit list --json` wrote, in place of the appliance; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// A place that an earlier verification told: it must still be there, as it was
    #[arg(long, value_name = "NUMBER:HASH", value_parser = anchor)]
    pub(crate) since: Option<Anchor>,
}

#[derive(Debug, Args)]
pub(crate) struct Signing {
    /// A command that makes a certificate of the request on its standard input, and writes it and those up to
    /// the authority to its standard output (PEM); without it the request is printed
    #[arg(long, value_name = "COMMAND")]
    pub(crate) sign: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Enrol {
    /// A file with the join token of the appliance's configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: PathBuf,
    /// A certificate that was made of the request, and those up to the authority (PEM)
    #[arg(long, value_name = "FILE", conflicts_with = "sign")]
    pub(crate) install: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) signing: Signing,
}

#[derive(Debug, Args)]
pub(crate) struct Keys {
    #[command(subcommand)]
    pub(crate) action: Option<KeyAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyAction {
    /// Show the certificate in use, and how long it is valid
    Show,
    /// Make a new key and have a certificate made of it; the old one is used until that is installed
    Rotate {
        #[command(flatten)]
        signing: Signing,
    },
    /// Install a certificate that was made of the request
    Install {
        /// The certificate, and those up to the authority (PEM)
        file: PathBuf,
    },
}
