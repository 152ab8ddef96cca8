//! Who may do what: a pure function from a caller and a request to yes or no, and the table it goes by.

use alloc::format;
use alloc::string::String;
use core::fmt;
pub use management_api::Right;
use network_tls::Pin;

/// Which of the provider's services a caller is: the last part of its SPIFFE ID, `spiffe://<trust domain>/svc/…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `vm`: makes, commands and ends instances, and sees to the appliance itself.
    Vm,
    /// `net`: says what the networks look like.
    Net,
    /// `storage`: exposes and withdraws targets.
    Storage,
}

impl Service {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Vm, Self::Net, Self::Storage];

    /// As it stands in a SPIFFE ID.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Net => "net",
            Self::Storage => "storage",
        }
    }
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Nobody asked who it is, because the operator has the API without authentication.
    Anonymous,
    /// One of the provider's services, proved by the key of this name and a certificate for it.
    Service(Service, Pin),
    /// Whoever calls before the appliance has a certificate: nobody can be told apart yet.
    Stranger,
    /// An authority that is believed vouches for it, but its certificate names none of the services: why not.
    Unknown(&'static str),
}

impl Principal {
    /// The key by which it proved who it is.
    pub const fn key(&self) -> Option<Pin> {
        match self {
            Self::Service(_, key) => Some(*key),
            _ => None,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Service(service, _) => write!(f, "svc/{}", service.name()),
            Self::Stranger => f.write_str("stranger"),
            Self::Unknown(_) => f.write_str("unknown"),
        }
    }
}

/// Nobody that is told apart.
const NONE: u8 = 0;
const VM: u8 = 1 << Service::Vm as u8;
const NET: u8 = 1 << Service::Net as u8;
const STORAGE: u8 = 1 << Service::Storage as u8;

/// The table: each right, in words for whoever lacks it, and the services that have it. Each service has what it cannot do
/// its work without, and no more: who moves disks does not stop machines, and who commands machines does not say where a
/// network goes.
const TABLE: [(Right, &str, u8); 12] = [
    (Right::About, "look at the appliance", VM | NET | STORAGE),
    (Right::Metrics, "look at the appliance's figures", VM | NET | STORAGE),
    (Right::Read, "look at instances and operations", VM),
    (Right::Instances, "command instances", VM),
    // Whoever attaches a volume has to know where it is.
    (Right::ReadTargets, "look at targets", VM | STORAGE),
    (Right::Targets, "expose or withdraw targets", STORAGE),
    (Right::ReadNetworks, "look at networks", VM | NET),
    (Right::Networks, "change networks", NET),
    (Right::Events, "read events", VM | NET | STORAGE),
    (Right::Audit, "read the audit", VM),
    // By the join token, before there is anybody; never after.
    (Right::Enrol, "enrol the appliance", NONE),
    (Right::Keys, "see to the appliance's keys", VM),
];

/// The row of the table.
fn row(right: Right) -> (&'static str, u8) {
    let row = TABLE.iter().find(|(other, ..)| *other == right);
    row.map_or(("do this", NONE), |(_, words, services)| (*words, *services))
}

/// The rights of callers that nobody asked who they are; those of the others stand in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Callers that nobody asked who they are may look.
    pub anonymous_reads: bool,
    /// They may command instances.
    pub anonymous_instances: bool,
    /// They may expose and withdraw targets, and say what networks look like.
    pub anonymous_targets: bool,
}

impl Policy {
    /// Whoever reaches the management port may do everything, where nobody is asked who it is. That is only as safe as the
    /// network it is on, and the appliance says so when it starts.
    pub const OPEN: Self = Self { anonymous_reads: true, anonymous_instances: true, anonymous_targets: true };

    /// Whether `principal` has `right`.
    ///
    /// # Errors
    /// Why not, in a sentence.
    pub fn decide(&self, principal: Principal, right: Right) -> Result<(), String> {
        let (words, services) = row(right);
        match principal {
            Principal::Anonymous if self.anonymous(right) => Ok(()),
            Principal::Anonymous => Err("Callers that are not authenticated may not do this.".into()),
            Principal::Service(service, _) if services & 1 << service as u8 != 0 => Ok(()),
            Principal::Service(..) => Err(format!("{principal} may not {words}.")),
            Principal::Stranger if right == Right::Enrol => Ok(()),
            Principal::Stranger => {
                Err("This appliance has no certificate yet; it can only be enrolled.".into())
            }
            Principal::Unknown(why) => Err(format!("It is not known who calls: {why}.")),
        }
    }

    const fn anonymous(&self, right: Right) -> bool {
        match right {
            Right::About => true,
            Right::Metrics
            | Right::Read
            | Right::ReadTargets
            | Right::ReadNetworks
            | Right::Events
            | Right::Audit => self.anonymous_reads,
            Right::Instances => self.anonymous_instances,
            Right::Targets | Right::Networks => self.anonymous_targets,
            // There are no keys without TLS.
            Right::Enrol | Right::Keys => false,
        }
    }
}
