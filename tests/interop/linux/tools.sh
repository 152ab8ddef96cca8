# What the guest does in phase tools; process 1 reads it before it logs in. The kernel's command line gives beside
# the rest
#   second=ADDRESS:PORT  a second way to the target, which the test cuts and mends
#   locked=NAME          a target whose initiators prove who they are, by the secrets below
# It ends by the machine's sudden death while it works; phase again, on the next boot, goes on where that stood.


t() { echo "guest: \$ $1"; eval "$1" 2>&1; echo "guest: = $?"; }
# Waits for something, half a minute at most.
wait_for() {
  end=$(($(cut -d. -f1 /proc/uptime) + 30))
  until eval "$2"; do
    [ $(cut -d. -f1 /proc/uptime) -lt $end ] || { tail -n 40 /run/*.log; fail "waiting for $1"; }
    sleep 0.1
  done
}
# The disk of a session, by the last part of its initiator's name and its address.
disk_of() {
  for s in /sys/class/iscsi_session/session*; do
    [ "$(cat $s/initiatorname)" = "$1" ] || continue
    [ "$(cat $s/device/connection*/iscsi_connection/connection*/persistent_port)" = "${2##*:}" ] || continue
    for d in $s/device/target*/*/block/sd*; do [ -e "$d/size" ] && [ "$(cat $d/size)" != 0 ] && echo ${d##*/}; done
  done
}
state_of() { multipathd show paths raw format "%d %t %T" | grep "^$1 "; }

start_udev() {
  mkdir -p /run/udev /etc/udev /etc/multipath
  ln -s /sbin/udevadm /lib/systemd-udevd 2> /dev/null
  printf 'defaults {\n user_friendly_names no\n find_multipaths no\n polling_interval 1\n max_polling_interval 1\n no_path_retry queue\n path_grouping_policy multibus\n fast_io_fail_tmo off\n}\n' > /etc/multipath.conf
  /lib/systemd-udevd --daemon > /run/udevd.log 2>&1 || fail "udevd"
  udevadm trigger --type=subsystems --action=add; udevadm trigger --action=add; udevadm settle
}

log_in_again() {
  must iscsiadm -m node -T $iqn -p $second,1 -o new
  must iscsiadm -m node -T $iqn -p $second -o update -n node.session.timeo.replacement_timeout -v 5
  must iscsiadm -m node -T $iqn -p $second --login
  must iscsiadm -m iface -I other -o new
  must iscsiadm -m iface -I other -o update -n iface.initiatorname -v $OTHER
  must iscsiadm -m node -T $iqn -p $portal,1 -I other -o new
  must iscsiadm -m node -T $iqn -p $portal -I other --login
  wait_for "the other disk" '[ -n "$(disk_of $OTHER $portal)" ]'
  wait_for "the second path" '[ -n "$(disk_of $MINE $second)" ]'
  B=/dev/$(disk_of $OTHER $portal) C=/dev/$(disk_of $MINE $second)
  say "sessions $(iscsiadm -m session | wc -l), disks $A $B $C"
  udevadm settle
}

# One disk over two paths: a file system, work on it, and one path is cut meanwhile, twice.
over_two_paths() {
  # The session of the other initiator is none of the paths.
  must iscsiadm -m node -T $iqn -p $portal -I other --logout
  multipathd -d -v 3 > /run/multipathd.log 2>&1 &
  wait_for "multipathd" 'multipathd show daemon > /dev/null 2>&1'
  map= ; wait_for "the map" 'map=$(multipathd show maps raw format "%n" | head -n 1); [ -b "/dev/mapper/$map" ]'
  wait_for "two paths" '[ "$(multipathd show paths raw format "%t" | grep -c active)" = 2 ]'
  say "map $map"
  must mkfs.ext4 -q -F /dev/mapper/$map
  must mount -t ext4 /dev/mapper/$map /mnt
  for round in connection daemon; do
    /host/run fio --name=$round --filename=/mnt/$round --size=12m --bsrange=4k-64k --rw=randwrite --direct=1 \
      --ioengine=libaio --iodepth=16 --verify=crc32c --verify_fatal=1 --do_verify=1 --time_based --runtime=7 \
      --output=/run/fio.$round > /run/fio 2>&1 &
    fio=$!
    sleep 1
    [ $round = daemon ] && kill -9 $(cat /run/iscsid.pid)
    say "cut $round"
    wait_for "the path to fail" 'state_of ${C##*/} | grep -q failed'
    say "mend $round"
    [ $round = daemon ] && { iscsid -f >> /run/iscsid.log 2>&1 & echo $! > /run/iscsid.pid; }
    wait_for "the path to be back" 'state_of ${C##*/} | grep -q active'
    say "back $round"
    wait $fio || { cat /run/fio /run/fio.$round; fail "fio $round"; }
    say "fio $round $(grep -E 'err= *0' /run/fio.$round | head -n 1)"
  done
  must umount /mnt
  must fsck.ext4 -f -n /dev/mapper/$map
  say "fsck clean"
  multipathd shutdown > /dev/null; wait_for "multipathd to end" '! ps | grep -q "[m]ultipathd"'
  must dmsetup remove $map
  must iscsiadm -m node -T $iqn -p $second --logout
}

# Many more commands than the target has places for.
more_than_fits() {
  /host/run fio --name=full --filename=$A --offset=36m --size=24m --bsrange=4k-256k --rw=randrw --direct=1 \
    --ioengine=libaio --iodepth=256 --verify=crc32c --verify_fatal=1 --verify_backlog=256 --time_based --runtime=5 \
    --output=/run/fio.full > /run/fio 2>&1 || { cat /run/fio /run/fio.full; fail "fio full"; }
  say "fio full $(grep -E 'err= *0' /run/fio.full | head -n 1)"
}

# A login to the locked target with these of its settings; how it ended.
prove() {
  iscsiadm -m node -T $locked -p $portal -o delete > /dev/null 2>&1
  must iscsiadm -m node -T $locked -p $portal,1 -o new
  for setting; do must iscsiadm -m node -T $locked -p $portal -o update -n node.session.auth.${setting%%=*} -v "${setting#*=}"; done
  iscsiadm -m node -T $locked -p $portal --login > /run/said 2>&1; proven=$?
  [ $proven = 0 ] && must iscsiadm -m node -T $locked -p $portal --logout
  say "proven $proven: $*"
}
prove_who_it_is() {
  right="authmethod=CHAP username=guest password=initiatorsecret"
  prove authmethod=None
  prove authmethod=CHAP username=guest password=anothersecret1
  prove authmethod=CHAP username=other password=initiatorsecret
  for algorithm in MD5 SHA1 SHA256 SHA3-256; do prove $right chap_algs=$algorithm; done
  for algorithm in MD5 SHA1 SHA256 SHA3-256; do
    prove $right chap_algs=$algorithm username_in=corbel password_in=targetsecret12
  done
  prove $right username_in=corbel password_in=targetsecret99
  prove $right username_in=others password_in=targetsecret12
}

tools() {
  MINE=$(cut -d= -f2 /etc/iscsi/initiatorname.iscsi | head -n 1) OTHER=iqn.2026-11.example.guest:other
  A=/dev/$disk
  log_in_again
  # What udev reads of a disk that was closed would be told the unit attentions.
  udevadm settle; udevadm control --stop-exec-queue
  say "transcript begins"
  . /transcript
  say "transcript ends"
  udevadm control --start-exec-queue
  prove_who_it_is
  over_two_paths
  more_than_fits
  # What the load takes for a disk that was never written.
  must sg_write_same -S -l 0 -n 32768 -x 512 $A
  say "load begins"
  /host/run guest-load $A /dev/vport*p1 > /run/said 2>&1
  fail "load ended"
}
