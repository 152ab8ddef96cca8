#!/bin/sh
# The appliance under Proxmox VE 7.2 or later: proxmox.sh VMID corbel.qcow2
# What it is told is the file corbel.cfg on the disk. vmbr77 is a bridge without ports; the state disk is state.disk=corbel-state.
set -eu
id=$1 disk=$(realpath "$2") storage=${STORAGE:-local-lvm}
qm create "$id" --name corbel --ostype other --machine q35 --bios seabios --cpu host --cores 1 \
    --memory 128 --balloon 0 \
    --virtio0 "$storage:0,import-from=$disk" \
    --virtio1 "$storage:1,serial=corbel-state,cache=none" \
    --boot order=virtio0 \
    --net0 "virtio=52:54:00:C0:BE:01,bridge=${HOST_BRIDGE:-vmbr77}" \
    --net1 "virtio=52:54:00:C0:BE:02,bridge=${SERVICE_BRIDGE:-vmbr0}" \
    --serial0 socket --vga serial0 \
    --watchdog model=i6300esb,action=reset \
    --rng0 source=/dev/urandom \
    --localtime 0 --onboot 1
qm start "$id"
