"""What the benchmark can be told, and the workloads it knows."""
import argparse
import os

NS = os.environ.get('PEER_NS', 'peer')                 # the network namespace of this run, by which also its disk is named
HERE = os.path.dirname(os.path.abspath(__file__))
IQN = 'iqn.2024-01.bench:disk0'

# name, read or write or m(PERCENT of reads), pattern, bytes, queue depth
WORK = [('4k rnd rd q1', 'r', 'rand', 4096, 1), ('4k rnd wr q1', 'w', 'rand', 4096, 1),
        ('4k rnd rd q32', 'r', 'rand', 4096, 32), ('4k rnd wr q32', 'w', 'rand', 4096, 32),
        ('16k mix 70/30 q16', 'm70', 'rand', 16384, 16),
        ('64k seq rd q8', 'r', 'seq', 65536, 8), ('64k seq wr q8', 'w', 'seq', 65536, 8),
        ('1m seq rd q4', 'r', 'seq', 1 << 20, 4), ('1m seq wr q4', 'w', 'seq', 1 << 20, 4)]

COMMANDS = 'report render load boot minmem insn refs tcp fair fragment'.split()


def parse(text):
    p = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = p.add_argument
    add('cmd', choices=COMMANDS)
    add('guest', nargs='*')
    add('--out', default='/tmp/peer', help='where the guests and tools are built')
    add('--reps', type=int, help='samples of each figure (default 3); of report: pairs (default 5, or 1 with --quick)')
    add('--dur', type=float, default=4, help='seconds of a sample')
    add('--warm', type=float, default=1, help='seconds before it')
    add('--only', default='', help='regex on workload names')
    add('--label', default='')
    add('--json', default='', help='append every sample to this file')
    g = p.add_argument_group('the machine')
    add = g.add_argument
    add('--net', default='tap', choices=['tap', 'slirp'])
    add('--mtu', type=int, default=9000)
    add('--smp', type=int, default=1)
    add('--mem', type=int, default=256, help='MiB of the peers')
    add('--machine', default='q35', help='board of the peers')
    add('--kernel', default='vmlinux', help='kernel of the peers: vmlinux or vmlinuz')
    add('--append', default='', help='more kernel command line of the peers')
    add('--nic', default='virtio-net-pci,romfile=,rx_queue_size=1024')
    add('--nicopt', default='', help='e.g. guest_tso4=off,host_tso4=off,mrg_rxbuf=off')
    add('--qemu', default='', help='more QEMU arguments, all guests')
    add('--accel', default='tcg,thread=multi')
    add('--pin', default='', help='cpu list for QEMU (taskset)')
    add('--url', action='append', default=[], help='NAME=URL of a guest with its own IQN or LUN, {addr} is filled in')
    g = p.add_argument_group('the storage service')
    add = g.add_argument
    add('--nbd', default='nbdkit', choices=['qemu-nbd', 'nbdkit', 'nbdkit-mem'])
    add('--conns', type=int, default=1, help='NBD connections of the peers')
    add('--size', type=int, default=1024, help='MiB of the LUN')
    g = p.add_argument_group('a quiet machine')
    add = g.add_argument
    add('--idle', type=float, default=30, help='seconds over which idle CPU is measured')
    add('--nice', type=int, default=-10)
    add('--quiet', type=float, default=8,
        help='%% of one core other processes may use during a sample; above: wait and redo')
    add('--patience', type=float, default=300,
        help='seconds to wait for a quiet machine per sample, then take it anyway and mark it')
    add('--budget', type=float, default=1e9, help='seconds to wait for a quiet machine in the whole run')
    g = p.add_argument_group('insn, fair')
    add = g.add_argument
    add('--prof', type=int, default=0, help='insn, fair --count: top N symbols')
    add('--symbols', default='', help='--prof: ELF with the symbols of the guest')
    add('--limit', action='append',
        help='fair: what fills {limit}, may be given again (default: iops=500 and bandwidth=10M of target.1)')
    add('--count', action='store_true',
        help='fair: under the TCG plugin; guest instructions, free of noise, instead of time of the vCPU')
    add('--late', type=int, default=3, help='fair: samples in a stall that is older than --age seconds')
    add('--greedy', action='store_true', help='fair: only beside a greedy disk')
    add('--age', type=float, default=30)
    g = p.add_argument_group('report')
    add = g.add_argument
    add('--image', default='', help='our image')
    add('--hosted', default='', help='the appliance as a Linux program; without it that part is left out')
    add('--board', default='q35', help="QEMU's -M for our image")
    add('--memory', type=int, default=64, help='MiB of our image')
    add('--part', default='', help='size, boot, memory, insn, floor, load or scale instead of all')
    add('--mtus', default='', help='default 1500,9000; 9000 with --quick')
    add('--quick', action='store_true', help='one short sample of each')
    add('--results', default='', help='folder of results.json, results.md and ratios.svg')
    add('--deadline', type=float, default=0, help='minutes after which it ends with what it has')
    a = p.parse_args()
    if a.cmd != 'report': a.reps = a.reps or 3
    return a
