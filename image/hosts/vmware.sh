#!/bin/sh
# The appliance under ESXi or vCenter, out of the OVA, by govc (GOVC_URL and its kin say where):
#   vmware.sh corbel.ova [appliance.conf]
# The port groups corbel-host and corbel-service are there before: the first on a switch without an uplink.
set -eu
ova=$1 config=${2:-/etc/corbel/appliance.conf} name=${NAME:-corbel}
options=$(mktemp)
trap 'rm -f "$options"' EXIT
cat >"$options" <<END
{
  "DiskProvisioning": "thin",
  "NetworkMapping": [
    { "Name": "host-only", "Network": "corbel-host" },
    { "Name": "service", "Network": "corbel-service" }
  ],
  "PowerOn": false
}
END
govc import.ova -name="$name" -options="$options" "$ova"
govc vm.network.change -vm "$name" -net corbel-host -net.address 00:50:56:00:be:01 ethernet-0
govc vm.network.change -vm "$name" -net corbel-service -net.address 00:50:56:00:be:02 ethernet-1
# What it is told. Without comments: they would end with the line, which this has only one of.
govc vm.change -vm "$name" -e "guestinfo.corbel.config=$(sed 's/#.*//' "$config" | tr -s ' \n' ' ')"
govc device.serial.add -vm "$name"
# Into a file beside the disk.
govc device.serial.connect -vm "$name" -
govc vm.power -on "$name"
