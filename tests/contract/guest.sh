#!/bin/sh
# Process 1 of the Linux guest that is given a disk. It says what comes and goes, and of a disk that comes it copies the
# first 64 KiB one MiB further. Every line for the test begins with "guest: ".
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
say() { echo "guest: $*"; }
for module in $(cat /modules); do insmod /m/$module.ko || say "FAILED $module"; done
say "up $(uname -r)"
disk=
while :; do
  now=
  for d in /sys/block/vd* /sys/block/sd*; do
    [ -e $d/size ] && [ "$(cat $d/size)" != 0 ] && [ -b /dev/${d##*/} ] && now=${d##*/}
  done
  if [ "$now" != "$disk" ]; then
    disk=$now
    if [ -n "$now" ]; then
      say "disk of $(cat /sys/block/$now/size) sectors"
      say "read $(dd if=/dev/$now bs=64k count=1 2> /dev/null | sha256sum | cut -d' ' -f1)"
      dd if=/dev/$now of=/dev/$now bs=64k count=1 seek=16 conv=fsync 2> /dev/null && say "written" || say "FAILED to write"
    else
      say "gone"
    fi
  fi
  sleep 0.1
done
