//! What hypervisors are told to make the appliance's machine: descriptions and scripts, by the names of their files.
//!
//! Each makes the same machine: one processor, little memory, a NIC on the host-only network and one on the service network,
//! told apart by their addresses, a console, and a watchdog where there is one that the appliance knows.
#![forbid(unsafe_code)]

/// Each file by its name. Those that end in `.sh` are to be run.
pub const FILES: [(&str, &str); 11] = [
    ("bhyve.sh", include_str!("../bhyve.sh")),
    ("cloud-hypervisor.sh", include_str!("../cloud-hypervisor.sh")),
    ("corbel.vmx", include_str!("../corbel.vmx")),
    ("firecracker.json", include_str!("../firecracker.json")),
    ("hyperv.ps1", include_str!("../hyperv.ps1")),
    ("libvirt.xml", include_str!("../libvirt.xml")),
    ("proxmox.sh", include_str!("../proxmox.sh")),
    ("virtualbox.sh", include_str!("../virtualbox.sh")),
    ("vmware.sh", include_str!("../vmware.sh")),
    ("xen-hvm.cfg", include_str!("../xen-hvm.cfg")),
    ("xen-pvh.cfg", include_str!("../xen-pvh.cfg")),
];
