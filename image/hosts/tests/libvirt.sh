#!/bin/sh
# libvirt.sh DISK FOLDER: libvirt.xml as it is, but for KVM, under a libvirtd of its own with bridges of its own, until the machine
# answers on both networks and is switched off by its power button. `unshare --mount --net` has been called before; as root.
set -eu
disk=$1 folder=$2 here=$(dirname "$(realpath "$0")")
config='host.address=10.77.0.2/24 service.address=10.78.0.2/24 state.disk=corbel-state
host.mac=52:54:00:c0:be:01 service.mac=52:54:00:c0:be:02'
console=/var/log/libvirt/qemu/corbel-console.log

mount --make-rprivate /
for name in corbel-host corbel-service; do
    ip link add "$name" type bridge
    ip link set "$name" up
done
ip addr add 10.77.0.1/24 dev corbel-host
ip addr add 10.78.0.1/24 dev corbel-service

for name in /etc/libvirt /etc/corbel /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /run/libvirt; do
    mkdir -p "$name"
    mount -t tmpfs none "$name"
done
# The user that its driver insists on, in here only.
for table in passwd group; do
    grep -v -e '^libvirt-qemu:' -e '^kvm:' "/etc/$table" >"$folder/$table"
done
echo 'libvirt-qemu:x:64055:64055::/:/bin/false' >>"$folder/passwd"
printf 'libvirt-qemu:x:64055:\nkvm:x:64056:\n' >>"$folder/group"
mount --bind "$folder/passwd" /etc/passwd
mount --bind "$folder/group" /etc/group
cat >/etc/libvirt/qemu.conf <<END
security_driver = "none"
namespaces = []
cgroup_controllers = []
user = "root"
group = "root"
stdio_handler = "file"
remember_owner = 0
END
cat >/etc/libvirt/libvirtd.conf <<END
unix_sock_dir = "$folder"
auth_unix_rw = "none"
log_outputs = "3:file:$folder/log"
END

mkdir -p /var/lib/libvirt/images /var/log/libvirt/qemu
qemu-img convert -O qcow2 "$disk" /var/lib/libvirt/images/corbel.qcow2
truncate -s 8M /var/lib/libvirt/images/corbel-state.raw
echo "$config" >/etc/corbel/appliance.conf
libvirtd -f /etc/libvirt/libvirtd.conf -p "$folder/pid" &
daemon=$!
call() { virsh -q -c "qemu+unix:///system?socket=$folder/libvirt-sock" "$@"; }
# until COMMAND holds: two minutes.
until_it() {
    for _ in $(seq 400); do
        if eval "$1"; then return; fi
        sleep 0.3
    done
    echo "not within two minutes: $1" >&2
    cat "$console" "$folder/log" >&2
    exit 1
}
trap 'call destroy corbel 2>/dev/null || true; kill $daemon' EXIT

until_it '[ -S "$folder/libvirt-sock" ]'
sed "s/<domain type='kvm'>/<domain type='qemu'>/" "$here/../libvirt.xml" >"$folder/domain.xml"
call define --validate "$folder/domain.xml"
call start corbel
until_it 'grep -q "corbel: ready" "$console"'
grep -q 'watchdog i6300esb' "$console"
ping -c 1 -W 5 10.77.0.2
ping -c 1 -W 5 10.78.0.2
call shutdown corbel
until_it '[ "$(call domstate corbel)" = "shut off" ]'
grep -q 'corbel: ended' "$console"
