//! What to do about each problem of the catalogue.

/// A request that this program does not make.
const ODD: &str = "the request was changed on its way, perhaps by a proxy: ask the appliance without one.";

/// Each problem by its name, and what helps.
const ADVICE: &[(&str, &str)] = &[
    ("not-found", "the appliance may be older than this program; `corbelctl status` tells its version."),
    (
        "method-not-allowed",
        "the appliance may be older than this program; `corbelctl status` tells its version.",
    ),
    (
        "unexpected-body",
        "this program and the appliance do not fit together; `corbelctl status` tells its version.",
    ),
    (
        "unsupported-media-type",
        "this program and the appliance do not fit together; `corbelctl status` tells its version.",
    ),
    ("malformed-body", "the appliance may be older than this program; `corbelctl status` tells its version."),
    (
        "malformed-query",
        "the appliance may be older than this program; `corbelctl status` tells its version.",
    ),
    ("invalid-field", "change what the sentence names, and say it again."),
    ("forbidden", "your certificate's role may not do this: ask with one of another role (--cert, --key)."),
    ("unknown-instance", "`corbelctl instances` lists those that are there."),
    ("instance-terminated", "it is gone for good; `corbelctl create` can make a new one of that name."),
    ("instance-exists", "choose another name, or terminate the one that is there."),
    (
        "unknown-image",
        "`corbelctl images` lists those that are there; the agent's operator adds more to its table.",
    ),
    ("wrong-state", "`corbelctl instance NAME` tells its state, and under `can` what is possible now."),
    (
        "state-unknown",
        "its hypervisor does not answer the agent: wait and try again, or end it by `terminate`.",
    ),
    (
        "precondition-failed",
        "it is not as --if-state or --if-generation say: look at it by `corbelctl instance NAME`, and decide anew.",
    ),
    ("unsupported", "`corbelctl capabilities` tells what each hypervisor can do, and why not the rest."),
    ("no-capacity", "make room: terminate or withdraw what is not needed any more."),
    (
        "guest-ignored",
        "the guest did not listen and still runs: give it more --timeout, or add --force to cut its power.",
    ),
    ("hypervisor-failed", "the sentence has the hypervisor's own words; its log is on the host."),
    ("hypervisor-timeout", "it may still come: look by `corbelctl instance NAME` before you try again."),
    ("unknown-operation", "only the latest are remembered: `corbelctl operations` lists them."),
    ("client-token-reused", "leave --token away, or choose one that no other command has."),
    ("deadline-passed", "nothing was done: say it again, with a longer --deadline if the host is busy."),
    (
        "outcome-unknown",
        "do not repeat it blindly: look by `corbelctl instance NAME`, or wait and ask for the operation again.",
    ),
    ("too-busy", "wait a little and say it again."),
    (
        "agent-not-configured",
        "this appliance only serves disks: set `agent=` in its configuration for instances.",
    ),
    (
        "agent-unavailable",
        "nothing was done. Is the agent running on the host? `corbelctl status` says why it is not reached.",
    ),
    (
        "agent-nonsense",
        "what listens at the agent's address is no agent, or one that does not fit; `corbelctl status` tells its version.",
    ),
    ("agent-refused", "appliance and agent do not fit together; `corbelctl status` tells both versions."),
    ("agent-storage", "the disk of the agent's journal is full or broken: see its log on the host."),
    ("stale-epoch", "another appliance commands this host now: ask that one."),
    ("no-state", "give the appliance a state disk, or see its log if it has one: `corbelctl status` tells."),
    ("unknown-target", "`corbelctl targets` lists those that are there."),
    ("target-conflict", "choose another name or logical unit, or withdraw the target that has it."),
    (
        "target-in-use",
        "log the initiator out, or give it time to: `corbelctl targets withdraw ID --grace 30s`.",
    ),
    ("malformed-request", ODD),
    ("malformed-target", ODD),
    ("malformed-host", ODD),
    ("ambiguous-length", ODD),
    ("target-too-long", ODD),
    ("head-too-large", ODD),
    ("unknown-expectation", ODD),
    ("transfer-coding", ODD),
    ("unknown-method", ODD),
    ("http-version", ODD),
    ("body-too-large", "say it in several pieces."),
    ("request-timeout", "the way to the appliance is slow or loses packets: try again."),
];

/// What to do about the problem of that name.
pub(crate) fn of(name: &str) -> Option<&'static str> {
    ADVICE.iter().find(|(known, _)| *known == name).map(|(_, advice)| *advice)
}
