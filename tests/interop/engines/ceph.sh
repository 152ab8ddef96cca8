#!/bin/bash
# A whole Ceph cluster on one machine, without systemd, and NBD gateways to its RBD images. See storage/nbd/ENGINES.md.
#
#   ceph.sh install                          the Debian packages (as root)
#   ceph.sh up DIR [ADDRESS]                 a cluster in DIR: one monitor, one manager, three OSDs, a pool "corbel"
#   ceph.sh run DIR [ADDRESS]                the same in the foreground, until it is told to end
#   ceph.sh down DIR                         the end of it
#   ceph.sh image DIR NAME SIZE              an image with the exclusive lock and nothing else
#   ceph.sh nbdkit DIR NAME ADDRESS PORT     the image over NBD by nbdkit, in the foreground: it fences by itself
#   ceph.sh gateway DIR NAME ADDRESS PORT    the image over NBD by qemu-nbd, in the foreground: it fences nobody
#   ceph.sh fence DIR NAME                   whoever holds the image now never writes again
#   ceph.sh takeover DIR NAME ADDRESS PORT   fence, then gateway
#   ceph.sh kill DIR osd.N                   the end of OSD N, as by a power failure
#   ceph.sh osd DIR N                        OSD N again, in the foreground
#   ceph.sh freeze DIR                       every OSD stands still, until it is
#   ceph.sh thaw DIR                         let go on
#   ceph.sh clean DIR                        waits until every OSD is up and every copy is where it belongs
#   ceph.sh admin DIR WORDS...               `ceph WORDS` as the administrator
set -euo pipefail

osds=3
packages="ceph-mon ceph-mgr ceph-osd ceph-common python3-rados python3-rbd nbdkit nbdkit-plugin-python qemu-utils qemu-block-extra"
. "$(dirname "$0")/packages.sh"

conf() { echo "$1/ceph.conf"; }
authtool() { ceph-authtool "$@" >/dev/null; }
admin() { local dir=$1; shift; ceph -c "$(conf "$dir")" "$@"; }
gateway_rbd() { local dir=$1; shift; rbd -c "$(conf "$dir")" --id gateway "$@"; }

write_conf() {
    local dir=$1 address=$2
    cat >"$(conf "$dir")" <<CONF
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon host = v2:$address:3300/0
ms bind msgr1 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
run dir = $dir
admin socket = $dir/\$name.asok
log file = $dir/\$name.log
pid file = $dir/\$name.pid
keyring = $dir/keyring
mon data = $dir/mon
mgr data = $dir/mgr
osd data = $dir/osd.\$id
# One machine is the whole cluster: copies go to different OSDs, and OSDs may report each other.
osd crush chooseleaf type = 0
mon osd reporter subtree level = osd
osd pool default size = 3
osd pool default min size = 2
osd pool default pg num = 8
osd pool default pg autoscale mode = off
# How long a fence stands: longer than any process can sleep and wake up unnoticed. The default is an hour.
mon osd blocklist default expire = 604800
# Small, because it shares a machine with what tests it.
osd objectstore = bluestore
bluestore block size = 4294967296
bluestore block wal create = false
osd memory target = 939524096
osd memory target autotune = false
osd op num shards = 2
mon data avail warn = 1
mon data avail crit = 0
# Nothing but what RBD needs.
mgr initial modules =
osd class update on start = false
[client]
log file = /dev/null
admin socket =
[client.gateway]
keyring = $dir/keyring.gateway
# librbd's cache answers writes that no OSD has. (Of a gateway by QEMU its --cache decides, whatever stands here.)
rbd cache = false
CONF
}

start() { # DIR NAME PROGRAM WORDS...: a daemon whose parent may end or, with $tied, takes it along
    local dir=$1 name=$2; shift 2
    ${tied:+setpriv --pdeathsig KILL --} nohup "$@" -f -c "$(conf "$dir")" >>"$dir/$name.out" 2>&1 </dev/null &
    echo $! >"$dir/$name.pid"
}

osd() {
    echo $$ >"$1/osd.$2.pid"
    exec ceph-osd -i "$2" -f -c "$(conf "$1")"
}

up() {
    local dir=$1 address=${2:-127.0.0.1} n births=()
    mkdir -p "$dir"/mon "$dir"/mgr
    dir=$(cd "$dir" && pwd)
    write_conf "$dir" "$address"
    local fsid; fsid=$(sed -n 's/^fsid = //p' "$(conf "$dir")")

    authtool -C "$dir/keyring" -g -n mon. --cap mon 'allow *'
    authtool "$dir/keyring" -g -n client.admin \
        --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' --cap mds 'allow *'
    authtool "$dir/keyring" -g -n mgr.x --cap mon 'allow profile mgr' --cap osd 'allow *'
    # The profile lets a client of RBD blocklist others, and nothing else that concerns the cluster.
    authtool -C "$dir/keyring.gateway" -g -n client.gateway \
        --cap mon 'profile rbd' --cap osd 'profile rbd pool=corbel' --cap mgr 'profile rbd pool=corbel'
    authtool "$dir/keyring" --import-keyring "$dir/keyring.gateway"
    monmaptool --create --clobber --fsid "$fsid" --addv m "[v2:$address:3300]" "$dir/monmap" >/dev/null
    for n in $(seq 0 $((osds - 1))); do
        mkdir -p "$dir/osd.$n"
        authtool "$dir/keyring" -g -n "osd.$n" --cap mon 'allow profile osd' --cap osd 'allow *'
    done
    ceph-mon -c "$(conf "$dir")" -i m --mkfs --monmap "$dir/monmap" --keyring "$dir/keyring" >>"$dir/mkfs.out" 2>&1
    start "$dir" mon ceph-mon -i m
    start "$dir" mgr ceph-mgr -i x
    for n in $(seq 0 $((osds - 1))); do
        birth "$dir" "$n" &
        births+=($!)
    done
    wait "${births[@]}"
    for n in $(seq 0 $((osds - 1))); do
        start "$dir" "osd.$n" ceph-osd -i "$n"
    done
    admin "$dir" osd pool create corbel 8 >>"$dir/mkfs.out" 2>&1
    admin "$dir" osd pool application enable corbel rbd >>"$dir/mkfs.out" 2>&1
    clean "$dir"
}

birth() {
    local dir=$1 n=$2 id
    id=$(cat /proc/sys/kernel/random/uuid)
    admin "$dir" osd new "$id" "$n" >>"$dir/mkfs.out"
    ceph-osd -c "$(conf "$dir")" -i "$n" --mkfs --osd-uuid "$id" >>"$dir/mkfs.out" 2>&1
}

# Waits until every OSD is up and every copy is where it belongs.
clean() {
    local dir=$1 i
    for i in $(seq 300); do
        if admin "$dir" pg stat 2>/dev/null | grep -Eq ' [0-9]+ active\+clean;' &&
            admin "$dir" osd stat 2>/dev/null | grep -q " $osds up"; then
            return
        fi
        sleep 0.2
    done
    admin "$dir" -s >&2
    return 1
}

down() {
    local dir=$1 file pid
    for file in "$dir"/*.pid; do
        [ -e "$file" ] || continue
        pid=$(cat "$file")
        # Only what is still the process that was started.
        if tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$dir/ceph.conf"; then
            kill -KILL "$pid" 2>/dev/null || true
        fi
        rm -f "$file"
    done
}

run() {
    tied=yes
    trap 'down "$1"; exit 0' TERM INT
    up "$@"
    echo "ceph.sh: up"
    while :; do sleep 3600 & wait $! || true; done
}

image() {
    local dir=$1 name=$2 size=$3
    gateway_rbd "$dir" create --pool corbel --size "$size" --image-feature exclusive-lock "$name"
}

gateway() {
    local dir=$1 name=$2 address=$3 port=$4
    # cache=none: it is this and not ceph.conf that turns librbd's cache off. driver=raw: QEMU 7.2 with the driver rbd
    # alone answers a FUA write before it is flushed, when nothing else was written since the last flush.
    exec qemu-nbd -t -e 16 -b "$address" -p "$port" --cache=none --discard=unmap --detect-zeroes=off \
        --image-opts "driver=raw,file.driver=rbd,file.pool=corbel,file.image=$name,file.user=gateway,file.conf=$(conf "$dir")"
}

nbdkit_gateway() {
    local dir=$1 name=$2 address=$3 port=$4
    # With NBDKIT_DEBUG=1 it tells each command, and how long a takeover took.
    # cache=none: it is this and not ceph.conf that turns librbd's cache off. driver=raw: QEMU 7.2 with the driver rbd
    # alone answers a FUA write before it is flushed, when nothing else was written since the last flush.
    exec nbdkit -f ${NBDKIT_DEBUG:+-v} -i "$address" -p "$port" python "$(dirname "$0")/rbd-gateway.py" \
        conf="$(conf "$dir")" id=gateway pool=corbel image="$name"
}

# Everybody who could change the image: the holder of its lock, which may have lost its watch, and each client that has
# the image open, which may ask for the lock later.
clients() {
    { gateway_rbd "$1" lock ls --pool corbel --format json "$2"
      gateway_rbd "$1" status --pool corbel --format json "$2"; } |
        grep -o '"address":"[^"]*"' | cut -d'"' -f4 | sort -u
}

fence() {
    local dir=$1 name=$2 address
    for address in $(clients "$dir" "$name"); do
        # For how long is the monitors' affair (mon osd blocklist default expire): librbd 16.2 writes the time of expiry
        # in a form they refuse, so it leaves it out when it blocklists for itself.
        ceph -c "$(conf "$dir")" --id gateway osd blocklist add "$address" 2>&1
    done
}

takeover() {
    fence "$1" "$2"
    # A client that starts now begins with a map that has the fence in it, so no OSD serves it before it knows, too.
    gateway "$@"
}

case ${1:-} in
    install) install ;;
    kill) kill -KILL "$(cat "$2/$3.pid")" ;;
    freeze) kill -STOP $(cat "$2"/osd.*.pid) ;;
    thaw) kill -CONT $(cat "$2"/osd.*.pid) ;;
    nbdkit) nbdkit_gateway "${@:2}" ;;
    up | run | down | image | gateway | fence | takeover | osd | clean) "$@" ;;
    admin) shift; admin "$@" ;;
    *) sed -n '2,21s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
