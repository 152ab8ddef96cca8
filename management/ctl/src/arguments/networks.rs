//! The command line about networks.

use super::values::name;
use crate::span;
use agent_protocol::NetworkName;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct Networks {
    #[command(subcommand)]
    pub(crate) action: Option<NetworkAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkAction {
    /// List the networks
    List,
    /// Show one network: what is wanted, what is in effect, and its interfaces
    Show(NetworkNamed),
    /// Say what a network is to look like, whole
    Apply {
        /// A JSON file with the map: network, generation, vni, mtu and endpoints; - is standard input
        file: PathBuf,
        #[command(flatten)]
        terms: NetworkTerms,
    },
    /// Have the host have no such network any more
    Remove {
        #[command(flatten)]
        network: NetworkNamed,
        #[command(flatten)]
        terms: NetworkTerms,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NetworkNamed {
    /// The network
    #[arg(value_name = "NETWORK", value_parser = name::<NetworkName>)]
    pub(crate) id: NetworkName,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkTerms {
    /// Wait until it is in effect on the host, at most so long (--wait=2m) if a time is given
    #[arg(short, long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = span::parse)]
    pub(crate) wait: Option<Option<Duration>>,
    /// Only ask whether it would be taken
    #[arg(long)]
    pub(crate) dry_run: bool,
}
