#!/bin/sh
# Process 1 of the Linux guest. The kernel's command line gives, as environment variables:
#   phase=write|verify|load|tools|again  ip=ADDRESS/LENGTH  portal=ADDRESS:PORT  iqn=NAME
# Every line for the test begins with "guest: "; the last one is "guest: done" or "guest: FAILED what".
export PATH=/bin:/sbin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
say() { echo "guest: $*"; }
end() { sleep 1; poweroff -f; sleep 100; }
fail() { dmesg | tail -n 25; cat /run/said; say "FAILED $*"; end; }
must() { "$@" > /run/said 2>&1 || fail "$*"; }

for module in $(cat /modules); do must insmod /m/$module.ko; done
must ip link set lo up
must ip addr add $ip dev eth0
must ip link set eth0 up
say "kernel $(uname -r), $(iscsiadm --version)"

if [ $phase = tools ]; then . /tools.sh; start_udev; fi
iscsid -f > /run/iscsid.log 2>&1 & echo $! > /run/iscsid.pid
n=0; until iscsiadm -m session > /run/said 2>&1; [ $? = 21 ]; do n=$((n + 1)); [ $n -lt 100 ] || fail "iscsid"; sleep 0.1; done
must iscsiadm -m discovery -t sendtargets -p $portal
say "found $(iscsiadm -m node | wc -l)"
must iscsiadm -m node -T $iqn -p $portal --login
disk= n=0
until [ -n "$disk" ]; do
  for d in /sys/block/sd*; do [ -e "$d/size" ] && [ "$(cat "$d/size")" != 0 ] && disk=${d##*/}; done
  n=$((n + 1)); [ $n -lt 100 ] || fail "no disk"; sleep 0.1
done
say "disk $(cat /sys/block/$disk/device/vendor)$(cat /sys/block/$disk/device/model) $(cat /sys/block/$disk/size) cache $(cat /sys/block/$disk/queue/write_cache)"

case $phase in
write)
  must mkfs.ext4 -q -F /dev/$disk
  must mount -t ext4 /dev/$disk /mnt
  for d in 1 2 3 4 5 6; do
    mkdir -p /mnt/tree/$d/deep/er
    for f in 1 2 3 4 5 6 7 8; do
      dd if=/dev/urandom of=/mnt/tree/$d/deep/er/$f bs=1021 count=$((d * d * f * f / 2)) 2> /dev/null || fail "write $d $f"
      ln /mnt/tree/$d/deep/er/$f /mnt/tree/$d/link$f
    done
  done
  dd if=/dev/urandom of=/mnt/tree/large bs=64k count=128 2> /dev/null || fail "write large"
  (cd /mnt/tree && find . -type f | sort | xargs sha256sum) > /mnt/manifest || fail "checksums" ;;
verify)
  must fsck.ext4 -f -n /dev/$disk
  say "fsck clean"
  must mount -t ext4 -o ro /dev/$disk /mnt
  (cd /mnt/tree && must sha256sum -c /mnt/manifest) ;;
load)
  say "load begins"
  /host/run guest-load /dev/$disk /dev/vport*p1 > /run/said 2>&1 || fail "load" ;;
tools) tools ;;
again)
  say "load begins again"
  /host/run guest-load /dev/$disk /dev/vport*p1 again > /run/said 2>&1 || fail "load" ;;
esac
if [ $phase = write ] || [ $phase = verify ]; then
  say "files $(wc -l < /mnt/manifest) kib $(du -sk /mnt/tree | cut -f1)"
  say "manifest $(sha256sum < /mnt/manifest | cut -d' ' -f1)"
  must umount /mnt
fi
must iscsiadm -m node -T $iqn -p $portal --logout
[ -e /sys/block/$disk ] && fail "the disk is still there after logout"
dmesg | grep -iE 'error|fail|timed|abort|reset' | grep -E 'scsi|sd[a-z]|iscsi|connection|EXT4' > /run/said && fail "errors in the kernel's log"
say done
end
