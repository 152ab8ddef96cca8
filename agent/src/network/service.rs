//! Requests about networks.

use super::{InEffect, Networks, Orderer, Refused};
use crate::service::{body_within, fields, not_allowed, number, problem, wrong};
use agent_protocol::{
    Facility, NetworkList, NetworkMap, NetworkName, NetworkState, Provision, Support, Text, Uuid, VERSION,
    encode,
};
use management_http::json::Bounds;
use management_http::{Method, Request, Response};

/// The part of the path behind which a network is named, in a request about `name`.
pub(crate) fn answer(
    networks: Option<&Networks>,
    boot: Uuid,
    rule: impl FnOnce() -> (u64, Option<Uuid>),
    name: &str,
    request: &Request<'_>,
) -> Result<Response, Response> {
    let unknown = || problem(404, "unknown-network", "There is no network of that name here.");
    let name: NetworkName = name.parse().map_err(|_| unknown())?;
    let networks = networks.ok_or_else(impossible)?;
    match request.method {
        Method::Get => {
            let state = networks.state(&name).map_err(kernel)?.ok_or_else(unknown)?;
            Ok(Response::json(200, encode(&shown(boot, name, state))))
        }
        Method::Put => {
            let by = orderer(request.query)?;
            let map: NetworkMap = body_within(request, &Bounds::MAP)?;
            if map.network != name {
                return Err(problem(422, "invalid-field", "network: another one than the path names"));
            }
            let turn = networks.turn(by, rule).map_err(refused)?;
            let state = networks.apply(&map, &turn).map_err(refused)?;
            Ok(Response::json(200, encode(&shown(boot, name, state))))
        }
        Method::Delete => {
            let turn = networks.turn(orderer(request.query)?, rule).map_err(refused)?;
            if networks.remove(&name, &turn).map_err(kernel)? {
                Ok(Response::no_content())
            } else {
                Err(unknown())
            }
        }
        _ => Err(not_allowed("GET, PUT, DELETE")),
    }
}

/// All networks.
pub(crate) fn list(networks: Option<&Networks>, boot: Uuid) -> Result<Response, Response> {
    let networks = networks.ok_or_else(impossible)?.states().map_err(kernel)?;
    let networks = networks.into_iter().map(|(name, state)| shown(boot, name, state)).collect();
    Ok(Response::json(200, encode(&NetworkList { proto: VERSION, agent_boot: boot, networks })))
}

/// Why there are no networks, where there are none.
const NO_UNDERLAY: &str = "The operator's file names no address of this host on the network between hosts.";

fn impossible() -> Response {
    problem(501, "impossible", NO_UNDERLAY)
}

/// What can be done about networks here.
pub(crate) fn provision(networks: Option<&Networks>) -> Provision {
    let (support, by) = match networks {
        Some(_) => (Support::Emulated, "VXLAN devices and bridges of the host's kernel, by iproute2"),
        None => (Support::Impossible, NO_UNDERLAY),
    };
    Provision { facility: Facility::NetworkApply, support, by: Text::new(by) }
}

fn kernel(what: Text) -> Response {
    problem(500, "hypervisor", what.as_str())
}

/// Whose order a change is.
fn orderer(query: Option<&str>) -> Result<Orderer, Response> {
    let [epoch, appliance, order] = fields(query, ["epoch", "appliance", "order"])?;
    let epoch = epoch.ok_or_else(|| wrong("epoch: the epoch that was granted"))?;
    let order = match (appliance, order) {
        (None, None) => None,
        (Some(appliance), Some(order)) => {
            let appliance = appliance.parse().map_err(|_| wrong("appliance: no UUID"))?;
            Some((appliance, number(order, "order")?))
        }
        _ => return Err(wrong("appliance and order: one without the other")),
    };
    Ok(Orderer { epoch: number(epoch, "epoch")?, order })
}

fn refused(why: Refused) -> Response {
    match why {
        Refused::Stale(newer) => {
            problem(409, "stale-generation", &format!("generation {newer} is here already"))
        }
        Refused::Differs => {
            problem(409, "stale-generation", "another map of this generation is here already")
        }
        Refused::VniTaken(other) => problem(409, "vni-taken", &format!("network {other} has this vni")),
        Refused::Full => problem(507, "full", "there are as many networks as there may be"),
        Refused::Replaced => problem(409, "stale-epoch", "Another appliance has taken over since."),
        Refused::Late => problem(409, "stale-generation", "something that was ordered later is done already"),
        Refused::Kernel(what) => problem(500, "hypervisor", what.as_str()),
    }
}

fn shown(boot: Uuid, network: NetworkName, state: InEffect) -> NetworkState {
    NetworkState {
        proto: VERSION,
        agent_boot: boot,
        network,
        applied: state.generation,
        endpoints: state.endpoints,
        unknown_destinations: state.unknown_destinations,
        problems: state.problem.into_iter().collect(),
    }
}
