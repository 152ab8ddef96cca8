//! What a link asks of the agent beside commands, and what it makes of the answers.

use super::{Broken, Link, STALE, parse, problem_type, refusal};
use crate::ask::{AgentError, Question, Reply};
use crate::wire::Wire;
use agent_protocol::{
    EventPage, NETWORKS_MAX, NetworkList, NetworkName, NetworkState, VERSION, encode, path,
};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use kernel_runtime::Instant;
use management_http::Method;
use management_http::json::Bounds;

/// The type of the problem that tells that there is no such network.
const UNKNOWN: &str = "urn:corbel:problem:unknown-network";
/// The same of an agent that has no networks at all.
const IMPOSSIBLE: &str = "urn:corbel:problem:impossible";

impl<W: Wire> Link<'_, W> {
    /// Ask about networks.
    pub(super) async fn network(
        &mut self,
        question: &Question,
        until: Instant,
    ) -> Result<Result<Reply, AgentError>, Broken> {
        let place = |name: &NetworkName| format!("{}/{name}", path::NETWORKS);
        // The agent is to take it from the appliance that commands, and from no other; and what was given up may still be on
        // its way, and is not to come behind this.
        let epoch = self.peer.map_or(0, |peer| peer.epoch);
        let appliance = self.management.configuration.boot;
        let by = |number| format!("epoch={epoch}&appliance={appliance}&order={number}");
        let order = || by(self.management.networks.borrow_mut().order());
        let (method, path, body) = match question {
            Question::PutNetwork(map) => {
                (Method::Put, format!("{}?{}", place(&map.network), order()), Some(encode(map)))
            }
            Question::RemoveNetwork(name) => (Method::Delete, format!("{}?{}", place(name), order()), None),
            Question::Network(name) => (Method::Get, place(name), None),
            _ => (Method::Get, String::from(path::NETWORKS), None),
        };
        self.exchange(method, &path, body.as_deref(), until).await?;
        drop(body);
        let (status, body) = self.reply();
        if status == 204 {
            return Ok(Ok(Reply::NoNetwork));
        }
        if status != 200 {
            let kind = problem_type(body);
            // A greeting of this appliance's former run may have come behind the one of this run, and the agent takes orders
            // from that one then. To greet again tells who commands, and whether it is still this appliance.
            if kind.as_deref() == Some(STALE) {
                return Err(Broken::Lost("it takes orders from another run"));
            }
            let is_gone = kind.as_deref() == Some(UNKNOWN)
                || method == Method::Delete && kind.as_deref() == Some(IMPOSSIBLE);
            let refused = AgentError::Refused(refusal(status, body));
            return Ok(if is_gone { Ok(Reply::NoNetwork) } else { Err(refused) });
        }
        let wrong = || Broken::Nonsense("networks of another version or run, or of another name".into());
        let name = match question {
            Question::PutNetwork(map) => &map.network,
            Question::RemoveNetwork(name) | Question::Network(name) => name,
            _ => {
                let list: NetworkList = parse(body, &Bounds::LIST).map_err(Broken::Nonsense)?;
                let NetworkList { proto, agent_boot, networks } = list;
                if proto != VERSION || self.is_stranger(agent_boot) || networks.len() > NETWORKS_MAX {
                    return Err(wrong());
                }
                return Ok(Ok(Reply::Networks(networks)));
            }
        };
        let state: NetworkState = parse(body, &Bounds::ANSWER).map_err(Broken::Nonsense)?;
        if state.proto != VERSION || self.is_stranger(state.agent_boot) || state.network != *name {
            return Err(wrong());
        }
        Ok(Ok(Reply::Network(Box::new(state))))
    }

    /// Ask what has happened after that number.
    pub(super) async fn events(
        &mut self,
        after: u64,
        until: Instant,
    ) -> Result<Result<Reply, AgentError>, Broken> {
        self.exchange(Method::Get, &format!("{}?after={after}", path::EVENTS), None, until).await?;
        let (status, body) = self.reply();
        if status != 200 {
            return Ok(Err(AgentError::Refused(refusal(status, body))));
        }
        let page: EventPage = parse(body, &Bounds::LIST).map_err(Broken::Nonsense)?;
        if page.proto != VERSION || self.is_stranger(page.agent_boot) {
            return Err(Broken::Nonsense("events of another version or run".into()));
        }
        Ok(Ok(Reply::Events(page)))
    }
}
