//! OVA (DMTF DSP0243, OVF 1.1): a machine and its disk in one file, for VMware and VirtualBox.

use crate::{Refused, SECTOR, digest, pad, vmdk};

/// The machine around the disk.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// What it and the files in the archive are called: letters, digits, `.`, `-`, `_`.
    pub name: &'a str,
    /// Its memory, in MiB.
    pub memory: u32,
}

/// The disk with a machine of UEFI firmware and two NICs, of which the first is on the network `host-only` and the second on
/// `service`.
///
/// # Errors
/// [`Refused`].
pub fn ova(disk: &[u8], machine: Machine<'_>) -> Result<Vec<u8>, Refused> {
    let name = machine.name;
    if name.len() > 80 {
        return Err(Refused::Name);
    }
    let (disk_name, ovf_name) = (format!("{name}-disk1.vmdk"), format!("{name}.ovf"));
    let vmdk = vmdk(disk, &disk_name)?;
    let ovf = descriptor(machine, &disk_name, vmdk.len(), disk.len());
    let manifest =
        format!("SHA256({ovf_name})= {}\nSHA256({disk_name})= {}\n", digest(ovf.as_bytes()), digest(&vmdk));
    let mut archive = Vec::new();
    // The descriptor comes first, and the manifest right behind it.
    file(&mut archive, &ovf_name, ovf.as_bytes());
    file(&mut archive, &format!("{name}.mf"), manifest.as_bytes());
    file(&mut archive, &disk_name, &vmdk);
    archive.extend([0; 2 * SECTOR]);
    Ok(archive)
}

/// Append a file as tar has it (POSIX.1-1988, ustar): nobody's, and made at no time.
fn file(archive: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    let mut header = vec![0; SECTOR];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", bytes.len()));
    put(136, "00000000000\0");
    // The sum counts itself as spaces.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend(header);
    archive.extend(bytes);
    pad(archive, SECTOR);
}

fn descriptor(Machine { name, memory }: Machine<'_>, disk: &str, length: usize, capacity: usize) -> String {
    let line = |name: &str, value: &str| format!("        <rasd:{name}>{value}</rasd:{name}>\n");
    let nic = |id: u32, network: &str| {
        // In the order in which the standard's schema has them.
        let lines = [
            line("AddressOnParent", &(id + 2).to_string()),
            line("AutomaticAllocation", "true"),
            line("Connection", network),
            line("ElementName", &format!("NIC of the {network} network")),
        ];
        let more = lines.concat();
        format!(
            "      <Item>\n{more}        <rasd:InstanceID>{id}</rasd:InstanceID>\n        \
             <rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType>\n        \
             <rasd:ResourceType>10</rasd:ResourceType>\n      </Item>\n"
        )
    };
    let processor = quantity(1, 3, "one processor", "hertz * 10^6", 1);
    let ram = quantity(2, 4, "memory", "byte * 2^20", memory);
    let controller = format!(
        "      <Item>\n{}{}        <rasd:InstanceID>3</rasd:InstanceID>\n        \
         <rasd:ResourceSubType>vmware.sata.ahci</rasd:ResourceSubType>\n        \
         <rasd:ResourceType>20</rasd:ResourceType>\n      </Item>\n",
        line("Address", "0"),
        line("ElementName", "SATA controller")
    );
    let drive = format!(
        "      <Item>\n{}{}{}        <rasd:InstanceID>4</rasd:InstanceID>\n        <rasd:Parent>3</rasd:Parent>\n        \
         <rasd:ResourceType>17</rasd:ResourceType>\n      </Item>\n",
        line("AddressOnParent", "0"),
        line("ElementName", "disk"),
        line("HostResource", "ovf:/disk/disk1")
    );
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
    <File ovf:href="{disk}" ovf:id="file1" ovf:size="{length}"/>
  </References>
  <DiskSection>
    <Info>Disks</Info>
    <Disk ovf:capacity="{capacity}" ovf:capacityAllocationUnits="byte" ovf:diskId="disk1" ovf:fileRef="file1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <NetworkSection>
    <Info>Networks</Info>
    <Network ovf:name="host-only">
      <Description>Between the appliance and its host; nothing else is on it</Description>
    </Network>
    <Network ovf:name="service">
      <Description>The provider's</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id="{name}">
    <Info>Control-plane appliance</Info>
    <Name>{name}</Name>
    <OperatingSystemSection ovf:id="102" vmw:osType="other3xLinux64Guest">
      <Info>None that is known</Info>
    </OperatingSystemSection>
    <VirtualHardwareSection ovf:transport="com.vmware.guestInfo">
      <Info>Hardware</Info>
      <System>
        <vssd:ElementName>Hardware</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>
      </System>
{processor}{ram}{controller}{drive}{}{}      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
      <vmw:Config ovf:required="false" vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="false"/>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"#,
        nic(5, "host-only"),
        nic(6, "service"),
    )
}

/// So much of something.
fn quantity(id: u32, kind: u32, name: &str, unit: &str, count: u32) -> String {
    format!(
        "      <Item>\n        <rasd:AllocationUnits>{unit}</rasd:AllocationUnits>\n        \
         <rasd:ElementName>{name}</rasd:ElementName>\n        <rasd:InstanceID>{id}</rasd:InstanceID>\n        \
         <rasd:ResourceType>{kind}</rasd:ResourceType>\n        \
         <rasd:VirtualQuantity>{count}</rasd:VirtualQuantity>\n      </Item>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MIB;

    #[test]
    fn the_archive_has_the_descriptor_the_manifest_and_the_disk() {
        let archive = ova(&vec![3; MIB], Machine { name: "corbel", memory: 64 }).unwrap();
        let (mut at, mut names) = (0, Vec::new());
        while archive[at] != 0 {
            let header = &archive[at..at + SECTOR];
            let text = |range: std::ops::Range<usize>| {
                String::from_utf8(header[range].iter().copied().take_while(|byte| *byte != 0).collect())
                    .unwrap()
            };
            let length = usize::from_str_radix(&text(124..135), 8).unwrap();
            names.push((text(0..100), archive[at + SECTOR..at + SECTOR + length].to_vec()));
            at += SECTOR + length.next_multiple_of(SECTOR);
        }
        assert_eq!(archive.len(), at + 2 * SECTOR);
        let [(ovf, descriptor), (mf, manifest), (vmdk, disk)] = names.as_slice() else {
            panic!("{}", names.len())
        };
        assert_eq!([ovf, mf, vmdk], ["corbel.ovf", "corbel.mf", "corbel-disk1.vmdk"]);
        let manifest = String::from_utf8(manifest.clone()).unwrap();
        assert!(manifest.contains(&digest(disk)) && manifest.contains(&digest(descriptor)));
        let descriptor = String::from_utf8(descriptor.clone()).unwrap();
        for text in ["<rasd:VirtualQuantity>64<", "ovf:name=\"host-only\"", "vmw:value=\"efi\""] {
            assert!(descriptor.contains(text), "{text}");
        }
        assert!(descriptor.contains(&format!("ovf:size=\"{}\"", disk.len())));
    }

    #[test]
    fn a_name_that_is_markup_is_refused() {
        assert_eq!(ova(&vec![0; MIB], Machine { name: "a<b", memory: 64 }), Err(Refused::Name));
    }
}
