//! The networks of the host: what its kernel has of them, which outlives the agent, and how the agent answers for them.

use agent_protocol::{NetworkList, NetworkMap, NetworkState, Uuid, VERSION, decode, encode};
use management_http::{Method, Request, Response};
use std::collections::BTreeMap;

/// The maps in effect, by network.
pub(crate) struct Networks {
    there: BTreeMap<String, NetworkMap>,
    /// The appliance of the last change, and its number; the agent's own, and gone with it.
    last: Option<(Uuid, u64)>,
    /// A planted bug: what is taken is not done.
    lies: bool,
}

impl Networks {
    pub(crate) const fn new(lies: bool) -> Self {
        Self { there: BTreeMap::new(), last: None, lies }
    }

    /// The generation that is in effect.
    pub(crate) fn generation(&self, name: &str) -> Option<u64> {
        self.there.get(name).map(|map| map.generation)
    }

    /// The host was without power.
    pub(crate) fn lose(&mut self) {
        self.there.clear();
    }

    /// The answer to a request about `name`, or about all of them.
    pub(crate) fn answer(
        &mut self,
        name: Option<&str>,
        request: &Request<'_>,
        boot: Uuid,
        (epoch, holder): (u64, Option<Uuid>),
    ) -> Response {
        let refused = |status, kind: &str| {
            let body = format!(r#"{{"type":"urn:corbel:problem:{kind}","detail":"no"}}"#);
            Response::problem(status, body.into_bytes())
        };
        let state = |map: &NetworkMap| NetworkState {
            proto: VERSION,
            agent_boot: boot,
            network: map.network.clone(),
            applied: Some(map.generation),
            endpoints: u32::try_from(map.endpoints.len()).unwrap_or(u32::MAX),
            unknown_destinations: 0,
            problems: Vec::new(),
        };
        let Some(name) = name else {
            let networks = self.there.values().map(state).collect();
            return Response::json(200, encode(&NetworkList { proto: VERSION, agent_boot: boot, networks }));
        };
        if request.method != Method::Get {
            let query = request.query.unwrap_or_default();
            let field =
                |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            let appliance = field("appliance").and_then(|text| text.parse().ok());
            let number = field("order").and_then(|text| text.parse().ok());
            let (Some(appliance), Some(number)) = (appliance, number) else {
                return refused(400, "malformed-query");
            };
            if field("epoch") != Some(epoch.to_string().as_str()) || Some(appliance) != holder {
                return refused(409, "stale-epoch");
            }
            if self.last.is_some_and(|(before, last)| before == appliance && number <= last) {
                return refused(409, "stale-generation");
            }
            self.last = Some((appliance, number));
        }
        let there = self.there.get(name);
        match request.method {
            Method::Put => {
                let Ok(map) = decode::<NetworkMap>(request.body) else {
                    return refused(400, "malformed-body");
                };
                if there.is_some_and(|there| {
                    there.generation > map.generation || there.generation == map.generation && *there != map
                }) {
                    return refused(409, "stale-generation");
                }
                let answer = Response::json(200, encode(&state(&map)));
                if !self.lies {
                    self.there.insert(name.into(), map);
                }
                answer
            }
            Method::Delete if there.is_some() => {
                self.there.remove(name);
                Response::no_content()
            }
            _ => there.map_or_else(
                || refused(404, "unknown-network"),
                |map| Response::json(200, encode(&state(map))),
            ),
        }
    }
}
