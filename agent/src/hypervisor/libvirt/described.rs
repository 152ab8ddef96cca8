//! What libvirtd describes a domain as, as far as it concerns the agent.

use super::document::{MARK, NAMESPACE, NIC, VOLUME, target};
use super::rpc::RpcError;
use agent_protocol::{Link, NicName, VolumeName};
use roxmltree::{Document, Node, ParsingOptions};
use std::collections::BTreeMap;

/// A description is no deeper or longer than a board with all its devices.
const NODES_MAX: u32 = 20_000;

/// A domain as it is described.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Of which instance it is, if the agent made it.
    pub instance: Option<String>,
    /// The disks that the agent gave it, with what libvirt calls where they are.
    pub volumes: BTreeMap<VolumeName, String>,
    /// The interfaces that the agent gave it.
    pub nics: BTreeMap<NicName, Plug>,
    /// Where it has disks, whoever gave it them.
    pub targets: Vec<String>,
    /// What it says of its memory, how much of that it has, and of its processors.
    pub size: [Option<String>; 3],
    /// It has processors that were plugged while it ran.
    pub plugged: bool,
    /// The description is that of a snapshot, and memory was kept with it.
    pub with_memory: bool,
}

/// An interface as it is described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plug {
    /// What libvirt calls its other end, if that has a name.
    pub end: Option<String>,
    /// Its cable.
    pub link: Link,
    /// Its address.
    pub mac: String,
    /// The bridge it is on, if it is on one.
    pub bridge: Option<String>,
}

impl Described {
    /// What a description says. It comes from a program that a guest may have taken over.
    pub(super) fn read(text: &str) -> Result<Self, RpcError> {
        let options =
            ParsingOptions { allow_dtd: false, nodes_limit: NODES_MAX, ..ParsingOptions::default() };
        let wrong = |_| RpcError::Malformed("a description that is not XML");
        let document = Document::parse_with_options(text, options).map_err(wrong)?;
        let root = document.root_element();
        // The description of a snapshot holds that of its domain.
        let domain = if root.has_tag_name("domainsnapshot") { child(root, "domain") } else { Some(root) };
        let domain = domain.ok_or(RpcError::Malformed("a description of something else"))?;
        let memory = if root == domain { None } else { attribute(root, "memory", "snapshot") };
        let with_memory = memory.is_some_and(|place| place != "no");
        let text = |name| Some(child(domain, name)?.text()?.trim().to_owned());
        let processors = attribute(domain, "vcpu", "current").map(str::to_owned).or_else(|| text("vcpu"));
        let size = [text("memory"), text("currentMemory"), processors];
        let each = child(domain, "vcpus").into_iter().flat_map(|each| each.children());
        let is = |node: &Node<'_, '_>, key| node.attribute(key) == Some("yes");
        let plugged = each.into_iter().any(|one| is(&one, "enabled") && is(&one, "hotpluggable"));
        let mut described = Self { with_memory, size, plugged, ..Self::default() };
        let mark = child(domain, "metadata")
            .and_then(|metadata| metadata.children().find(|node| node.has_tag_name((NAMESPACE, MARK))));
        described.instance = mark.and_then(|mark| mark.attribute("id")).map(str::to_owned);
        for device in child(domain, "devices").into_iter().flat_map(|devices| devices.children()) {
            let alias = attribute(device, "alias", "name");
            let target = attribute(device, "target", "dev");
            if device.has_tag_name("disk") {
                let name = alias.and_then(|alias| alias.strip_prefix(VOLUME)?.parse().ok());
                described.targets.extend(target.map(str::to_owned));
                if let (Some(name), Some(target)) = (name, target) {
                    described.volumes.insert(name, target.to_owned());
                }
            } else if device.has_tag_name("interface")
                && let Some(name) = alias.and_then(|alias| alias.strip_prefix(NIC)?.parse().ok())
            {
                let down = attribute(device, "link", "state") == Some("down");
                let plug = Plug {
                    end: target.map(str::to_owned),
                    link: if down { Link::Down } else { Link::Up },
                    mac: attribute(device, "mac", "address").unwrap_or_default().to_owned(),
                    bridge: attribute(device, "source", "bridge").map(str::to_owned),
                };
                described.nics.insert(name, plug);
            }
        }
        Ok(described)
    }

    /// Where another disk can go.
    pub(super) fn free_target(&self) -> String {
        let letters = (0..26).map(target);
        let free = letters.into_iter().find(|target| !self.targets.contains(target));
        // With as many disks libvirtd refuses another by itself.
        free.unwrap_or_else(|| target(25))
    }
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.has_tag_name(name))
}

fn attribute<'a>(node: Node<'a, '_>, name: &str, key: &str) -> Option<&'a str> {
    child(node, name)?.attribute(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_and_interfaces_are_known_by_the_names_the_agent_gave_them() {
        let text = r"<domain><metadata><c:instance xmlns:c='https://corbel.dev/agent/1' id='web'/></metadata><devices>
            <disk><target dev='vda'/><alias name='virtio-disk0'/></disk>
            <disk><target dev='vdb'/><alias name='ua-volume-data'/></disk>
            <disk><target dev='vdd'/><alias name='ua-volume-../x'/></disk>
            <interface><mac address='52:54:00:00:00:01'/><source bridge='br-blue'/>
              <target dev='vnet0'/><link state='down'/><alias name='ua-nic-front'/></interface>
            <interface><alias name='net1'/></interface></devices></domain>";
        let described = Described::read(text).unwrap();
        assert_eq!(described.instance.as_deref(), Some("web"));
        assert_eq!(described.volumes, BTreeMap::from([("data".parse().unwrap(), "vdb".to_owned())]));
        let front = Plug {
            end: Some("vnet0".to_owned()),
            link: Link::Down,
            mac: "52:54:00:00:00:01".to_owned(),
            bridge: Some("br-blue".to_owned()),
        };
        assert_eq!(described.nics, BTreeMap::from([("front".parse().unwrap(), front)]));
        assert_eq!(described.free_target(), "vdc");
    }

    #[test]
    fn a_snapshot_is_described_by_the_domain_as_it_was() {
        let domain = "<domain><memory>1</memory><vcpu current='2'>4</vcpu>
            <vcpus><vcpu id='1' enabled='yes' hotpluggable='yes'/></vcpus><devices><disk><target dev='vda'/></disk></devices></domain>";
        let text = |memory| {
            format!("<domainsnapshot><memory snapshot='{memory}'/>{domain}<inactiveDomain/></domainsnapshot>")
        };
        let described = Described::read(&text("internal")).unwrap();
        assert!(described.with_memory && described.targets == ["vda"]);
        assert_eq!(described.size.each_ref().map(Option::as_deref), [Some("1"), None, Some("2")]);
        assert!(described.plugged);
        assert!(!Described::read(&text("no")).unwrap().with_memory);
        assert!(!Described::read(domain).unwrap().with_memory);
        assert!(Described::read("<domainsnapshot/>").is_err());
    }

    #[test]
    fn a_domain_of_somebody_else_is_not_taken_for_ours() {
        for text in [
            "<domain/>",
            "<domain><metadata><instance id='web'/></metadata></domain>",
            "<domain><metadata><instance xmlns='https://elsewhere/' id='web'/></metadata></domain>",
            "<domain><devices><instance xmlns='https://corbel.dev/agent/1' id='web'/></devices></domain>",
        ] {
            assert_eq!(Described::read(text).unwrap().instance, None, "{text}");
        }
    }

    #[test]
    fn a_description_that_would_take_the_memory_is_refused() {
        let bomb = "<!DOCTYPE d [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;'>]><domain>&b;</domain>";
        assert!(Described::read(bomb).is_err());
        assert!(Described::read(&format!("<domain>{}</domain>", "<a/>".repeat(30_000))).is_err());
        assert!(Described::read(&"<a>".repeat(100_000)).is_err());
        assert!(Described::read("").is_err());
    }
}
