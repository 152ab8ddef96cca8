#!/bin/bash
# A GlusterFS volume of three copies on one machine, without systemd, and NBD gateways to images on it. See
# storage/nbd/ENGINES.md. Needs root: bricks keep their state in trusted extended attributes.
#
#   gluster.sh install                          the Debian packages
#   gluster.sh run DIR [ADDRESS]                a volume "corbel" of three bricks in DIR, until it is told to end; it
#                                               takes no loopback address, and without one the first of the machine
#   gluster.sh image DIR NAME SIZE              an image
#   gluster.sh gateway DIR NAME ADDRESS PORT    the image over NBD by qemu-nbd, in the foreground
#   gluster.sh elsewhere DIR NAME ADDRESS PORT  the same on a host of its own (a network namespace) with ADDRESS
#   gluster.sh kill DIR brick.N                 the end of brick N, as by a power failure
#   gluster.sh freeze DIR                       every brick stands still, until it is
#   gluster.sh thaw DIR                         let go on
#   gluster.sh heal DIR                         dead bricks again; waits until all copies are the same
#   gluster.sh fence DIR ADDRESS                the gateway host ADDRESS never writes again, until it is
#   gluster.sh unfence DIR                      forgiven
#   gluster.sh admin DIR WORDS...               `gluster WORDS`
set -euo pipefail

bricks=3
packages="glusterfs-server glusterfs-cli glusterfs-client qemu-utils qemu-block-extra"
. "$(dirname "$0")/packages.sh"

admin() { gluster --mode=script --glusterd-sock="$1/cli.socket" "${@:2}"; }
address() { cat "$1/address"; }

run() {
    mkdir -p "$1"
    local dir; dir=$(cd "$1" && pwd)
    # Bricks make themselves daemons; a namespace of processes ends all of them with its first. The mounts keep what has
    # a fixed place (sockets, logs) with the rest.
    exec unshare --mount --pid --fork --kill-child=KILL --mount-proc "$0" inside "$dir" "${2:-$(hostname -I | cut -d' ' -f1)}"
}

inside() {
    local dir=$1 address=$2 n words=()
    mkdir -p "$dir"/{state,run,sockets,log/bricks}
    mount --bind "$dir/sockets" /run/gluster
    mount --bind "$dir/log" /var/log/glusterfs
    echo "$address" >"$dir/address"
    cat >"$dir/glusterd.vol" <<CONF
volume management
    type mgmt/glusterd
    option working-directory $dir/state
    option run-directory $dir/run
    option glusterd-sockfile $dir/cli.socket
    option transport-type socket
    option transport.socket.listen-port 24007
    option transport.socket.bind-address $address
    option ping-timeout 0
    option event-threads 1
end-volume
CONF
    glusterd --no-daemon --volfile="$dir/glusterd.vol" --log-file="$dir/log/glusterd.log" &
    until admin "$dir" volume list >/dev/null 2>&1; do sleep 0.1; done
    for n in $(seq 0 $((bricks - 1))); do
        mkdir -p "$dir/brick.$n"
        words+=("$address:$dir/brick.$n")
    done
    # "force": bricks of one volume on one machine, and on its root filesystem, are no redundancy but for a test.
    admin "$dir" volume create corbel replica "$bricks" "${words[@]}" force
    set_options "$dir"
    admin "$dir" volume start corbel
    echo "gluster.sh: up"
    wait
}

set_options() {
    # What a gateway has answered lies on the bricks, not in its memory.
    admin "$1" volume set corbel performance.write-behind off
    admin "$1" volume set corbel performance.flush-behind off
    # O_DIRECT reaches the bricks, and a flush is an fsync on each.
    admin "$1" volume set corbel performance.strict-o-direct on
    admin "$1" volume set corbel network.remote-dio disable
    # Caches in the gateway would hide from it what another one wrote.
    for cache in quick-read read-ahead io-cache stat-prefetch open-behind; do
        admin "$1" volume set corbel "performance.$cache" off
    done
    # How long a brick may be silent; the default of 42 s is longer than an initiator waits.
    admin "$1" volume set corbel network.ping-timeout 5
    # Two of three copies, or no write at all: two halves never diverge.
    admin "$1" volume set corbel cluster.quorum-type auto
    # Only the gateways may mount.
    admin "$1" volume set corbel nfs.disable on
}

url() { echo "gluster://$(address "$1"):24007/corbel/$2"; }

image() { qemu-img create -q -f raw "$(url "$1" "$2")" "$3"; }

gateway() {
    exec qemu-nbd -t -e 16 -b "$3" -p "$4" -f raw --cache=none --discard=unmap --detect-zeroes=off "$(url "$1" "$2")"
}

# The gateway on a host of its own: a network namespace with the address A.B.C.2, where this one has A.B.C.1.
elsewhere() {
    exec 9</proc/self/ns/net
    exec unshare --net "$0" there "$@"
}

there() {
    local address=$3 net cable
    net=${address%.*}
    cable=${net//./}
    nsenter --net=/proc/self/fd/9 sh -ec "ip link add v$cable type veth peer name far netns $$
        ip address add $net.1/24 dev v$cable; ip link set v$cable up"
    ip link set lo up
    ip address add "$address/24" dev far
    ip link set far up
    ip route add default via "$net.1"
    gateway "$@"
}

heal() {
    local i
    admin "$1" volume start corbel force
    for i in $(seq 300); do
        if ! admin "$1" volume status corbel | grep -E '^Brick.* N ' >/dev/null &&
            ! admin "$1" volume heal corbel info | grep -E '^Number of entries: ([1-9]|-)|not connected' >/dev/null; then
            return
        fi
        sleep 0.2
    done
    admin "$1" volume heal corbel info >&2
    return 1
}

# Cuts the connections of that host to every brick, and takes no new ones.
fence() { admin "$1" volume set corbel auth.reject "$2"; }
unfence() { admin "$1" volume reset corbel auth.reject; }

case ${1:-} in
    install | run | inside | image | gateway | elsewhere | there | heal | fence | unfence | admin) "$@" ;;
    kill) pkill -KILL -f -- "--brick-name $2/$3 " ;;
    freeze) pkill -STOP -f -- "--brick-name $2/brick." ;;
    thaw) pkill -CONT -f -- "--brick-name $2/brick." ;;
    *) sed -n '2,19s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
