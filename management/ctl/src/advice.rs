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
    (
        "signature-required",
        "say --sign-requests, or `sign_requests = true` for the host in the configuration file.",
    ),
    (
        "signature-invalid",
        "look at the clocks of both: a signature is good for a few minutes; and say it again, which signs it anew.",
    ),
    (
        "clock-unknown",
        "leave --sign-requests (and `sign_requests`) away for this host, or give its appliance a clock (the key `time`).",
    ),
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
    ("unknown-target", "`corbelctl targets` lists those that are there."),
    ("target-conflict", "choose another name or logical unit, or withdraw the target that has it."),
    (
        "target-in-use",
        "log the initiator out, or give it time to: `corbelctl targets withdraw ID --grace 30s`.",
    ),
    ("unknown-network", "`corbelctl networks` lists those that are there."),
    ("vni-taken", "choose another vni, or remove the network that has it (`corbelctl networks`)."),
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
    (
        "unknown-part",
        "`corbelctl instance NAME` lists its disks and interfaces; networks stand in the agent's table.",
    ),
    ("part-exists", "choose another name, or detach the one that has it."),
    (
        "instance-frozen",
        "an earlier command may or may not have been carried out (`corbelctl why NAME`): look, then end it by `terminate` or `stop --force --timeout 0`.",
    ),
    (
        "guest-did-not-release",
        "the guest still uses it, and it stays attached: unmount it in the guest and detach again, with a longer --timeout.",
    ),
    ("stale-epoch", "another appliance commands this host now: ask that one."),
    (
        "no-state",
        "give the appliance a state disk (`state.disk=` in its configuration): what it could not remember it does not do.",
    ),
    (
        "initiator-not-admitted",
        "expose the target to this instance's initiator as well: `corbelctl instance NAME` tells its name.",
    ),
    ("stale-generation", "somebody was quicker: look at what is there, and say anew what you want."),
    ("generation-mismatch", "somebody was quicker: look at what is there, and decide anew."),
    ("not-cancellable", "`corbelctl operation ID --wait` tells how it ends."),
    (
        "key-state",
        "`corbelctl keys` tells how it is with its key: enrol once, and rotate before you install.",
    ),
    ("cancelled", "nothing was done; say it again if it is wanted after all."),
    ("draining", "the host is being emptied: choose another, or `corbelctl drain --off`."),
    (
        "unsupported-api-version",
        "this program and the appliance do not fit together; `corbelctl status` tells its version.",
    ),
    (
        "state-disk-full",
        "old operations make room as they are forgotten: try later, or give the appliance a larger state disk.",
    ),
];

/// What to do about the problem of that name.
pub(crate) fn of(name: &str) -> Option<&'static str> {
    ADVICE.iter().find(|(known, _)| *known == name).map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_of_the_catalogue_has_advice_once() {
        let catalogue = management_api::catalogue().problems;
        let names: Vec<&str> = catalogue.iter().filter_map(|entry| entry.r#type.rsplit(':').next()).collect();
        for name in &names {
            let advice = of(name).unwrap_or_else(|| panic!("{name} has no advice"));
            assert!(advice.len() > 20 && advice.ends_with('.'), "{name}: {advice}");
        }
        for (index, (name, _)) in ADVICE.iter().enumerate() {
            assert!(ADVICE[..index].iter().all(|(other, _)| other != name), "{name} stands twice");
        }
    }

    #[test]
    fn advice_names_commands_that_there_are() {
        use clap::CommandFactory;
        let program = crate::arguments::Arguments::command();
        for (problem, advice) in ADVICE {
            for command in advice.split("`corbelctl ").skip(1) {
                let words = command.split('`').next().unwrap_or_default().split_whitespace();
                let mut at = &program;
                for word in words.filter(|word| word.chars().all(|letter| letter.is_ascii_lowercase())) {
                    if !at.has_subcommands() {
                        break;
                    }
                    at = at.find_subcommand(word).unwrap_or_else(|| panic!("{problem}: there is no {word}"));
                }
            }
        }
    }
}
