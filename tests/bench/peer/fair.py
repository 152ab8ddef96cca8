"""What a stalled, a greedy and a limited second disk cost the first."""
import json
import os
import re
import signal
import statistics as st
import struct
import subprocess as sp
import threading
import time

from options import IQN, NS
from blocks import snap, symbols
from stand import IQN1, PEERS, RAW, Guest, Nbd, a, busy, cpu, med, mine, save, spawn

FAIR = [('4k rnd rd q1', 'r', 'rand', 4096, 1), ('4k rnd rd 3000/s', 'r', 'rand', 4096, 32, 3000), ('4k rnd rd q8', 'r', 'rand', 4096, 8), ('4k rnd rd q32', 'r', 'rand', 4096, 32), ('4k rnd wr q32', 'w', 'rand', 4096, 32)]
GREEDY = ('4k rnd wr q128', 'w', 'rand', 4096, 128)
STALL = {'stalled 4k rd q32': ('r', 4096, 32), 'stalled 1m rd q32': ('r', 1 << 20, 32),    # what is outstanding on the server that stands still: plain, more than memory,
         'stalled 1m wr q32': ('w', 1 << 20, 32), 'stalled 4k wr q128': ('w', 4096, 128)}  # more than there is a place for, many not flushed


class Keep(threading.Thread):
    """an initiator that keeps commands outstanding on disk 1: when they end (BUSY, say) it logs in and sends them anew"""
    def __init__(self, url, rw, bs, qd): super().__init__(daemon=True); self.c = [a.out + '/ibench', 'run', url, rw, 'rand', str(bs), str(qd), '0', '3600']; self.end, self.n, self.p, self.why = False, 0, None, ''; self.start()
    def run(self):
        while not self.end: self.n += 1; self.p = spawn(self.c, stdout=sp.DEVNULL, stderr=sp.PIPE, text=True); self.why = self.p.communicate()[1].strip() or self.why; time.sleep(.2)
    def stop(self): self.end = True; self.p.kill(); self.join()


class Pair:
    """a guest with two disks, each with an NBD server of its own; disk 0 is measured. Server 1 is qemu-nbd: nbdkit 1.32 aborts when it wakes to a client that has gone"""
    def __init__(self, spec, limit=''):
        self.n0, self.n1 = Nbd(), Nbd(kind='qemu-nbd', raw=RAW + '1', port=10810); self.g = Guest(spec, limit=limit, extra=f'-plugin {a.out}/insn.so,map=/dev/shm/{NS}.map' if a.count else ''); self.url1 = self.g.url.replace(IQN, IQN1)
        self.up = self.g.start() is not None and not sp.run([a.out + '/ibench', 'probe', self.url1, '20'], capture_output=True).returncode; time.sleep(.5)
    def v(self):
        if not a.count: return cpu(self.g.p.pid)[0]
        with open(f'/dev/shm/{NS}.map', 'rb', 0) as f: return struct.unpack('<Q', f.read(8))[0] / 1e6
    def stop(self): self.n1.p.send_signal(signal.SIGCONT); self.g.stop(); self.n0.stop(); self.n1.stop(); a.count and os.unlink(f'/dev/shm/{NS}.map')
    def work(self, w): return self.decoded(self.sample(w))
    def decoded(self, o):
        if 'sym' in o: o['sym'] = symbols(*self.snaps)
        return o
    def sample(self, w):
        m = lambda: busy() - mine([self.g.p, self.n0.p, self.n1.p]); b, t = m(), time.monotonic(); c, s = self.v(), snap() if a.count and a.prof else 0
        o = self.g.work(w, self.n0); o['wall'] = time.monotonic() - t; o['v'] = self.v() - c; o['noise'] = max(0, (m() - b) / o['wall'] * 100)
        if s: self.snaps = s, snap(); o['sym'] = {}
        return o
    def beside(self, w):
        """disk 0 under w while disk 1 is greedy: what each gets in the same seconds"""
        q = spawn([a.out + '/ibench', 'run', self.url1, *map(str, GREEDY[1:]), str(1 + a.warm), str(a.dur)], stdout=sp.PIPE, stderr=sp.PIPE, text=True); time.sleep(1)
        o = self.sample(w); out, err = q.communicate(timeout=30); self.decoded(o)
        if q.returncode: return dict(err='disk 1: ' + err.strip())
        d = json.loads(out); o.update(iops1=d['iops'], mibs1=d['mibs'], p991=d['p99']); o['noise'] = max(0, o['noise'] - d['cpu'] / (1 + a.warm + a.dur) * 100); return o
    def stall(self, rw, bs, qd): self.k = Keep(self.url1, rw, bs, qd); time.sleep(.7); self.n1.p.send_signal(signal.SIGSTOP); time.sleep(.3)
    def resume(self): self.n1.p.send_signal(signal.SIGCONT); self.k.stop(); time.sleep(.5)
    def stalled(self, w, *how):
        self.stall(*how); o = self.sample(w)
        if 'err' not in o: o['again'], o['why'] = self.k.n - 1, self.k.why
        self.resume(); return self.decoded(o)


def fair():
    for spec in a.guest:
        if spec == 'lio': spec = 'lio=' + PEERS['lio'].replace('{append}', '{append} disks=2 step=1')
        F, T = {}, {}                                  # workload -> condition -> [(before, sample, after)]
        def alternate(p, limit, conds):
            """A B A C A ...: each sample between two of the first disk alone"""
            for w in [w for w in FAIR if re.search(a.only, w[0])]:
                last = p.work(w)
                for rep in range(a.reps):
                    for name, f in conds.items():
                        o = f(w); nxt = p.work(w); bad = [x['err'] for x in (last, o, nxt) if 'err' in x]
                        if bad: print(f'# {p.g.name} {w[0]} {name}: {bad[0]}', flush=True)
                        else: F.setdefault(w[0], {}).setdefault(name, []).append((last, o, nxt)); save('fair', dict(guest=p.g.name, work=w[0], cond=name, limit=limit, before=last, o=o, after=nxt))
                        last = nxt
        def late(p, name, how):
            """a stall that outlives every time-out"""
            ws = [w for w in FAIR if re.search(a.only, w[0])]; last = [p.work(w) for w in ws]
            for rep in range(a.late):
                p.stall(*how); time.sleep(a.age); os_ = [p.work(w) for w in ws]; n, why = p.k.n, p.k.why; p.resume(); time.sleep(2); nxt = [p.work(w) for w in ws]
                for w, b, o, c in zip(ws, last, os_, nxt):
                    bad = [x['err'] for x in (b, o, c) if 'err' in x]
                    if bad: print(f'# {p.g.name} {w[0]} {name}: {bad[0]}', flush=True)
                    else: o['again'], o['why'] = n - 1, why; F.setdefault(w[0], {}).setdefault(name, []).append((b, o, c)); save('fair', dict(guest=p.g.name, work=w[0], cond=name, before=b, o=o, after=c))
                last = nxt
        p = Pair(spec)
        if not p.up: print(f'# {p.g.name}: did not come up with two disks, see {p.g.log}'); p.stop(); continue
        alternate(p, '', dict(greedy=p.beside) if a.greedy else dict({'alone': p.work}, **{n: (lambda w, h=h: p.stalled(w, *h)) for n, h in STALL.items()}, greedy=p.beside))
        if a.late: late(p, f'stalled > {a.age:.0f} s', STALL['stalled 4k rd q32'])
        own = [p.work(GREEDY) for _ in range(3)]; p.stop(); table(p.g.name, F, own); F = {}
        for limit in (a.limit or ['target.1.iops=500', 'target.1.bandwidth=10M']) if '{limit}' in spec else []:
            p = Pair(spec, limit)
            if not p.up: print(f'# {p.g.name} {limit}: did not come up, see {p.g.log}'); p.stop(); continue
            own = [p.work(GREEDY) for _ in range(2)]       # the greedy workload alone on disk 0: what one of its operations costs
            alternate(p, limit, {'alone': p.work, limit: p.beside}); own += [p.work(GREEDY) for _ in range(2)]; p.stop(); table(p.g.name, F, own); F = {}


def table(guest, F, own):
    """ratios to the mean of the sample before and the one after, medians and quartiles of them"""
    own = [o for o in own if 'err' not in o]; xo, co = (med([o['iops'] for o in own]), med([o['v'] / o['allops'] for o in own]))
    print(f'\n{guest}: disk 0 by what disk 1 does, in % of disk 0 alone just before and after [quartiles]; vcpu: {"guest instructions" if a.count else "time of the vCPU"} per operation of disk 0; greedy: {GREEDY[0]}, alone {xo:.0f} IOPS, {co * 1e6:.1f} {"instructions" if a.count else "us"} each')
    print(f'{"workload":16} {"disk 1":24} {"n":>2} {"alone":>7} {"IOPS %":>18} {"p99 %":>20} {"vcpu %":>18} {"noise":>5}')
    for w, cs in F.items():
        for c, R in cs.items():
            def q(f): x = sorted(f(*r) for r in R); x = st.quantiles(x, n=4, method='inclusive') if len(x) > 1 else x * 3; return f'{x[1]:6.1f} [{x[0]:.0f}..{x[2]:.0f}]'
            rel = lambda f: q(lambda b, o, n: 200 * f(o) / (f(b) + f(n)))
            l = f'{w:16} {c:24} {len(R):2} {med([b["iops"] for b, o, n in R]):7.0f} {rel(lambda o: o["iops"]):>18} {rel(lambda o: o["p99"]):>20} {rel(lambda o: o["v"] / o["allops"]):>18} {med([o["noise"] for b, o, n in R]):5.0f}'
            if 'iops1' in R[0][1]:
                one = lambda o: o['iops1'] * o['wall']; v0 = lambda b, n: (b['v'] / b['allops'] + n['v'] / n['allops']) / 2
                l += f'  disk 1: {q(lambda b, o, n: o["iops1"])} IOPS {q(lambda b, o, n: o["mibs1"] * 1.048576)} MB/s p99 {med([o["p991"] for b, o, n in R]):.0f} us; share of disk 0 {q(lambda b, o, n: 100 * o["iops"] / (o["iops"] + o["iops1"]))} %'
                if c != 'greedy': l += (f'; IOPS of what disk 1 leaves {q(lambda b, o, n: 200 * o["iops"] / (b["iops"] + n["iops"]) / (1 - o["iops1"] / xo))} %'
                                        f'; vcpu with disk 1\'s own {q(lambda b, o, n: 100 * o["v"] / (o["allops"] * v0(b, n) + one(o) * co))} %')
            if 'again' in R[0][1]: l += f'  disk 1: sent anew {sum(o["again"] for b, o, n in R)} times {max(o["why"] for b, o, n in R)}'
            print(l, flush=True)
            if 'sym' in R[0][1] and c != 'alone': excess(R, own if 'iops1' in R[0][1] else [])


def excess(R, own):
    """where the guest spends more than the operations of both disks cost by themselves"""
    add = lambda os_: {k: sum(o['sym'].get(k, 0) for o in os_) / sum(o['allops'] for o in os_) for k in {k for o in os_ for k in o['sym']}}
    base, cost, E = add([x for b, o, n in R for x in (b, n)]), add(own) if own else {}, {}; n0 = sum(o['allops'] for b, o, n in R); n1 = sum(o.get('iops1', 0) * o['wall'] for b, o, n in R)
    for k in {k for b, o, n in R for k in o['sym']} | set(base): E[k] = (sum(o['sym'].get(k, 0) for b, o, n in R) - n0 * base.get(k, 0) - n1 * cost.get(k, 0)) / n0
    print(f'      {sum(base.values()):9.1f} instructions/operation of disk 0 alone, {sum(E.values()):+.1f} beside ({n1 / n0:.3f} operations of disk 1 to one of disk 0, their own cost {sum(cost.values()):.1f} each taken off):')
    for k, v in sorted(E.items(), key=lambda x: -abs(x[1]))[:a.prof]: print(f'      {v:+9.1f}  {k}')
