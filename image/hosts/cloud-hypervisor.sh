#!/bin/sh
# The appliance under Cloud Hypervisor 51 or later: two TAP devices, corbel-host and corbel-service, are there before, and a state disk
# (truncate -s 8M). What it is told goes in as the initial RAM disk.
#   cloud-hypervisor.sh [corbel.elf [appliance.conf [state.raw]]]
set -eu
exec cloud-hypervisor \
    --kernel "${1:-/var/lib/corbel/corbel.elf}" \
    --initramfs "${2:-/etc/corbel/appliance.conf}" \
    --cmdline "host.mac=52:54:00:c0:be:01 service.mac=52:54:00:c0:be:02" \
    --cpus boot=1 --memory size=64M \
    --disk "path=${3:-/var/lib/corbel/state.raw},serial=corbel-state,image_type=raw" \
    --net tap=corbel-host,mac=52:54:00:c0:be:01 tap=corbel-service,mac=52:54:00:c0:be:02 \
    --rng src=/dev/urandom \
    --serial tty --console off \
    --api-socket path=/run/corbel-appliance.sock
