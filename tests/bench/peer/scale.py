"""Many disks, each with a session of its own: throughput, fairness and memory."""
import os
import time

from options import IQN, NS
from stand import API, HOST1, IP0, MAC, PEERS, Guest, Nbd, a, instructions, quiet, rss

COUNTS = [1, 2, 4, 8, 16, 64]
MEMORY = 512                                           # MiB of every guest here: the appliance sizes its tables by it
QD = 8                                                 # commands that each session keeps outstanding
LOADS = {'read': ('4k rnd rd', 'r', 'rand', 4096, QD), 'write': ('4k rnd wr', 'w', 'rand', 4096, QD)}


def ours(n):
    """the image with n targets, told by a file: a command line has no room for them"""
    items = [f'host.address={IP0}/24', f'host.mac={MAC % 0}', 'service.address=10.77.1.2/24', f'service.mac={MAC % 1}', f'api={API}', 'log=warn']
    for i in range(n):
        items += [f'target.{i}.iqn={IQN[:-1]}{i}', f'target.{i}.volume=nbd://{HOST1}/disk{i}', f'target.{i}.initiators=*']
    conf = f'{a.out}/scale.conf'
    with open(conf, 'w') as f: f.write('\n'.join(items) + '\n')
    g = Guest(f'ours=-M {a.board} -smp 1 -m {MEMORY} -kernel {a.image} -fw_cfg name=opt/corbel/config,file={conf}', log='scale')
    g.metrics = f'http://10.77.1.2:{API}/v1/metrics'
    return g


def lio(n): return Guest('lio=' + PEERS['lio'], mem=MEMORY, append=f'disks={n} exports=1', log='scale')


def one(make, n, counted=False):
    """one boot with n disks: a line of the table; `counted`: under the TCG plugin, instructions instead of time"""
    nbd, g, mp = Nbd(disks=n), None, f'/dev/shm/{NS}.map'
    try:
        g = make(n)
        g.url, g.last = g.url.replace('disk0', 'disk%d'), n - 1
        if counted: g.cmd += ['-plugin', f'{a.out}/insn.so,map={mp}']
        if g.start(timeout=30) is None: return dict(err=f'did not come up: {g.said()}')
        time.sleep(1 + n * .02)
        r = dict(free=g.counters().get('corbel_memory_free_bytes'))
        for name, w in LOADS.items():
            if counted: o = g.work(w, None, sessions=n, mark=lambda: instructions(mp))
            else: o = quiet(lambda: g.work(w, None, sessions=n), lambda: [g.p, nbd.p])
            if 'err' in o: return dict(err=f'{name}: {o["err"]}; it said: {g.said()}')
            r[name] = o['insn'] if counted else {k: o[k] for k in ('iops', 'slowest', 'fastest', 'p50', 'p99', 'us', 'noise')}
        r['rss'] = rss(g.p.pid)
        return r
    except OSError as e: return dict(err=str(e))
    finally:
        if g: g.stop()
        nbd.stop()
        if os.path.exists(mp): os.unlink(mp)
