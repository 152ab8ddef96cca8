//! Who may do what: a pure function from a caller and a request to yes or no.

use core::fmt;

/// Who calls. Until callers authenticate there is only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Nobody asked who it is.
    Anonymous,
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "anonymous",
        })
    }
}

/// What a request wants to do, as far as rights are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Look at the appliance itself: its health and what it is.
    About,
    /// Look at instances, operations, images and targets.
    Read,
    /// Command instances.
    Instances,
    /// Expose and withdraw targets.
    Targets,
}

/// The rights that each caller has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Callers that nobody asked who they are may look.
    pub anonymous_reads: bool,
    /// They may command instances.
    pub anonymous_instances: bool,
    /// They may expose and withdraw targets.
    pub anonymous_targets: bool,
}

impl Policy {
    /// Whoever reaches the management port may do everything. That is only as safe as the network it is on, and the
    /// appliance says so when it starts.
    pub const OPEN: Self = Self { anonymous_reads: true, anonymous_instances: true, anonymous_targets: true };

    /// Whether `principal` has `right`; otherwise why not.
    pub fn decide(&self, principal: Principal, right: Right) -> Result<(), &'static str> {
        let Principal::Anonymous = principal;
        let allowed = match right {
            Right::About => true,
            Right::Read => self.anonymous_reads,
            Right::Instances => self.anonymous_instances,
            Right::Targets => self.anonymous_targets,
        };
        if allowed { Ok(()) } else { Err("Callers that are not authenticated may not do this.") }
    }
}
