#!/bin/sh
# The appliance under VirtualBox 7: virtualbox.sh corbel.vhd [the interface that the service network is on]
# What it is told is the file corbel.cfg on the disk. (Of the VMDK VirtualBox does not start: it can only be imported.)
set -eu
disk=$1 service=${2:-eth0} name=${NAME:-corbel} host=${HOST_INTERFACE:-vboxnet0}
VBoxManage createvm --name "$name" --ostype Other_64 --register
VBoxManage modifyvm "$name" --memory 128 --cpus 1 --firmware efi --rtcuseutc on --ioapic on --paravirtprovider kvm \
    --graphicscontroller none --audio-enabled off --usb off \
    --nic1 hostonly --hostonlyadapter1 "$host" --nictype1 virtio --macaddress1 525400C0BE01 \
    --nic2 bridged --bridgeadapter2 "$service" --nictype2 virtio --macaddress2 525400C0BE02 \
    --uart1 0x3F8 4 --uartmode1 file "$name-console.log"
VBoxManage storagectl "$name" --name SATA --add sata --controller IntelAhci --portcount 1
VBoxManage storageattach "$name" --storagectl SATA --port 0 --device 0 --type hdd --medium "$disk"
VBoxManage startvm "$name" --type headless
