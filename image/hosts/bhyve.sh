#!/bin/sh
# The appliance under bhyve (FreeBSD): bhyve.sh corbel.raw. The interfaces tap0, for the host alone, and tap1, in the bridge of the
# service network, are there before, and the package bhyve-firmware. What it is told is the file corbel.cfg on the disk.
set -eu
disk=$1
# bhyve ends with 0 when the machine wants to be started again.
while bhyve -A -H -P -w -c 1 -m 256M \
    -l bootrom,/usr/local/share/uefi-firmware/BHYVE_UEFI.fd \
    -l com1,stdio \
    -s 0,hostbridge \
    -s 2,ahci-hd,"$disk" \
    -s 3,e1000,tap0,mac=58:9c:fc:c0:be:01 \
    -s 4,e1000,tap1,mac=58:9c:fc:c0:be:02 \
    -s 5,virtio-rnd \
    -s 31,lpc \
    corbel; do
    bhyvectl --destroy --vm=corbel
done
bhyvectl --destroy --vm=corbel
