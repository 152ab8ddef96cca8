#!/bin/sh
# A host for the package, in namespaces of its own (`unshare --mount --net --pid --fork`): this system's files with a layer
# above them that goes when the script ends, a bridge for the service network with a storage service on it, and the
# package, installed by dpkg. Says on standard output what happens, a line each.
#   package.sh PACKAGE SCRATCH
set -eu
package=$1 scratch=$2
layer=$scratch/layer root=$scratch/root
mkdir -p "$layer" "$root"
mount -t tmpfs -o size=512M layer "$layer"
mkdir "$layer/upper" "$layer/work"
mount -t overlay -o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work" overlay "$root"
mount -t tmpfs dev "$root/dev"
mkdir "$root/dev/net" "$root/dev/shm"
chmod 1777 "$root/dev/shm"
mknod -m 0666 "$root/dev/null" c 1 3
mknod -m 0666 "$root/dev/zero" c 1 5
mknod -m 0666 "$root/dev/random" c 1 8
mknod -m 0666 "$root/dev/urandom" c 1 9
# As udev has it on a host.
mknod -m 0666 "$root/dev/net/tun" c 10 200
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs run "$root/run"
cp "$package" "$root/run/package.deb"
inside() { chroot "$root" "$@"; }
# What systemd would do with the units: their user, their files of variables, their last command of that name.
command_of() { sed -n "s/^$2=+\{0,1\}//p" "$root/lib/systemd/system/$1" | tail -1; }
# In place of this shell.
as() {
    user=$1
    shift
    exec chroot "$root" setpriv --reuid "$user" --regid "$user" --init-groups --inh-caps=-all --bounding-set=-all --no-new-privs "$@"
}

ip link set lo up
ip link add provider type bridge
ip address add 10.78.0.1/24 dev provider
ip link set provider up
nbdkit --exit-with-parent --foreground --ipaddr 10.78.0.1 memory 8M &

inside dpkg --install /run/package.deb
echo "installed"

# As it is installed it does not know the service network.
set -a
. "$root/etc/corbel/host.env"
. "$root/var/lib/corbel/appliance.env"
. "$root/var/lib/corbel/agent-pin.env"
. "$root/etc/corbel/agent.env"
if inside $(command_of corbel-network.service ExecStart) 2>"$scratch/refusal"; then exit 1; fi
echo "refused: $(cat "$scratch/refusal")"
SERVICE_BRIDGE=provider
inside $(command_of corbel-network.service ExecStart)
echo "networks"

cat >>"$root/etc/corbel/appliance.conf" <<END
target.0.iqn=iqn.2026-11.example:disk0
target.0.volume=nbd://10.78.0.1/
target.0.initiators=*
api=8080
api.insecure=yes
END
sed -i 's|^service.address=.*|service.address=10.78.0.2/24|' "$root/etc/corbel/appliance.conf"

eval "set -- $(command_of corbel-agent.service.d/10-package.conf ExecStart)"
as corbel-agent "$@" >"$scratch/agent.log" 2>&1 &
agent=$!
inside install -d -m 0700 -o corbel-appliance -g corbel-appliance "/run/corbel-appliance"
inside $(command_of corbel-appliance.service ExecStartPre)
as corbel-appliance $(command_of corbel-appliance.service ExecStart) >"$scratch/appliance.log" 2>&1 &
appliance=$!

: >>"$scratch/appliance.log"
said() {
    tries=0
    until grep -q "$1" "$scratch/appliance.log"; do
        tries=$((tries + 1))
        if [ "$tries" -gt 300 ] || ! kill -0 "$appliance" 2>/dev/null; then
            cat "$scratch/appliance.log" "$scratch/agent.log" >&2
            exit 1
        fi
        sleep 0.1
    done
}
said 'ready;'
said 'agent 10.77.0.1:7077 is up'
echo "the agent is known"
iscsi-ls --show-luns iscsi://10.77.0.2
echo "keys: $(inside stat -c '%a %U' /var/lib/corbel/keys.conf /run/corbel-appliance/config /var/lib/corbel-agent/key.pem | paste -sd ,)"

(as corbel-appliance $(command_of corbel-appliance.service ExecStop))
# systemd ends what is left as soon as that has come back: the appliance must have ended by then, if not QEMU.
if grep -q 'corbel: ended' "$scratch/appliance.log"; then echo "off when the stop command came back"; fi
wait "$appliance"
kill "$agent"
wait "$agent" || :

# Without an agent, or with another, the package's own keys are left out.
config="$root/run/corbel-appliance/config" conf="$root/etc/corbel/appliance.conf"
configure() { inside $(command_of corbel-appliance.service ExecStartPre); }
echo "with an agent: $(grep -oE '^agent[.a-z]*=' "$config" | paste -sd ' ')"
cp "$conf" "$scratch/appliance.conf"
sed -i 's/^agent=/# agent=/' "$conf"
configure
echo "without an agent: $(grep -oE '^agent[.a-z]*=' "$config" | paste -sd ' ')."
(as corbel-appliance $(command_of corbel-appliance.service ExecStart) >"$scratch/alone.log" 2>&1) &
alone=$!
tries=0
until grep -q 'ready;' "$scratch/alone.log" 2>/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -gt 300 ] || ! kill -0 "$alone" 2>/dev/null; then
        cat "$scratch/alone.log" >&2
        exit 1
    fi
    sleep 0.1
done
echo "it serves without an agent"
(as corbel-appliance $(command_of corbel-appliance.service ExecStop))
wait "$alone"
cp "$scratch/appliance.conf" "$conf"
echo 'log=info agent.insecure=yes' >>"$conf"
configure
echo "with an agent that is not known: $(grep -oE '(^| )agent[.a-z]*=' "$config" | paste -sd ' ')"
cp "$scratch/appliance.conf" "$conf"

# An upgrade keeps what was made; a purge leaves nothing.
before=$(inside sha256sum /var/lib/corbel/keys.conf /var/lib/corbel/appliance.env)
inside dpkg --install --force-confold /run/package.deb
[ "$before" = "$(inside sha256sum /var/lib/corbel/keys.conf /var/lib/corbel/appliance.env)" ]
echo "upgraded"
inside $(command_of corbel-network.service ExecStop)
! ip link show corbel-host 2>/dev/null
inside dpkg --purge corbel-host
for left in /var/lib/corbel /var/lib/corbel-agent /var/lib/corbel-appliance /usr/lib/corbel /etc/corbel /usr/bin/corbel-agent; do
    if inside test -e "$left"; then echo "left: $left"; fi
done
echo "purged"
