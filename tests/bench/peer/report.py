"""The whole comparison in one go: our image, the Linux peers, and the appliance as a process beside tgtd, alternately.

Nothing that goes wrong with one of them ends the run: the reason takes the place of the figure. It ends with what it has
at its deadline. The results are a file, from which render.py makes the table and the plot."""
import json
import os
import re
import signal
import subprocess as sp
import time

import native
import render
import scale
import single
import stand
from blocks import snap, symbols
from options import NS
from stand import API, MAC, PEERS, RAW, Guest, Nbd, a, cpu, instructions, net, quiet, rss, sh, spawn, works

PARTS = 'size boot insn floor scale memory load'.split()   # load is last: it makes do with the time that is left
BESIDE = .3                                            # seconds that a sample takes beside its own
PLACES = dict(boot=['boot', 'base'], insn=['insn', 'counters', 'symbols'], scale=['scale', 'scale counted'])   # of each part in the results
MICROVM = ('microvm,acpi=off,isa-serial=on', 'virtio-net-device,rx_queue_size=1024')
PROFILED = ('4k rnd rd q32', '4k rnd wr q32', '1m seq rd q4', '1m seq wr q4')
KEPT = 'iops mibs p50 p99 max us vcpu io gib ini srv all pk0 pk1 insn noise ops allops'.split()


class Late(BaseException): pass                        # nothing on its way may take it for an error of its own


class Plan:
    """how much of everything"""
    def __init__(self):
        q = a.quick
        self.pairs = a.reps or (1 if q else 5)
        self.mtus = [int(x) for x in (a.mtus or ('9000' if q else '1500,9000')).split(',')]
        self.boots = 1 if q else max(9, self.pairs)
        self.idle = 3 if q else 10
        self.scales = 1 if q else 3
        self.counts = [1, 4, 64] if q else scale.COUNTS
        self.deadline = a.deadline or (10 if q else 40)
        a.patience, a.budget = (0, 0) if q else (min(a.patience, 30), min(a.budget, 900))
        self.parts = [p for p in PARTS if a.part in ('', p)]
        if a.part and not self.parts: raise SystemExit(f'there is no part {a.part}: there are {", ".join(PARTS)}')
        guests = 3 + 2 * bool(a.hosted)
        turns = dict(insn=len(self.mtus) * 3, load=len(self.mtus) * self.pairs * guests, scale=(self.scales + 1) * len(self.counts) * 2)
        each = dict(insn=len(works()), load=len(works()), scale=len(scale.LOADS))
        rest = dict(insn=8 + self.idle, load=5, scale=7)   # seconds of a turn beside its samples
        took = dict(size=0, boot=self.boots * 8 + 3 * (self.idle + 2), floor=15, memory=80 if q else 240) | {p: n * (rest[p] + each[p] * BESIDE) for p, n in turns.items()}
        self.samples = sum(turns[p] * each[p] for p in self.parts if p in turns)
        self.seconds = sum(took[p] for p in self.parts)
        # As long as the deadline allows, with a tenth to spare, and no longer than is of use.
        fits = (self.deadline * 54 - self.seconds) / max(1, self.samples)
        a.warm = .3
        a.dur = .8 if q else round(min(2, max(.5, fits - a.warm)), 1)

    def minutes(self):
        """about how long it takes on a machine that is quiet"""
        return (self.seconds + self.samples * (a.dur + a.warm)) / 60


def ours(memory=None, board=None, api=False):
    items = ['host.address={ip0}/24', f'host.mac={MAC % 0}', 'service.address={ip1}/24', f'service.mac={MAC % 1}', 'target.0.iqn={iqn}',
             'target.0.volume=nbd://{nbd}/', 'target.0.initiators=*', 'log=warn'] + [f'api={API}'] * api
    return f'ours=-M {board or a.board} -smp 1 -m {memory or a.memory} -kernel {a.image} -append "{" ".join(items)}"'


def said(text): print(time.strftime('%H:%M:%S ') + text, flush=True)


class Report:
    def __init__(self):
        self.plan = Plan()
        self.dir = a.results or a.out + '/results'
        os.makedirs(self.dir, exist_ok=True)
        self.r = dict(meta=meta(self.plan), troubles={})
        self.part = ''
        if a.part: self.go_on()

    def go_on(self):
        """one part alone takes its place among those that are there, if they are of this image"""
        try:
            with open(self.dir + '/results.json') as f: there = json.load(f)
        except (OSError, ValueError): return
        mine = self.r['meta']
        if not isinstance(there.get('troubles'), dict): return
        if any(there['meta'].get(k) != mine[k] for k in ('image', 'quick', 'board', 'memory')): return
        there['meta'].setdefault('again', {})[a.part] = mine['date']
        for key in PLACES.get(a.part, [a.part]): there.pop(key, None)
        there['troubles'].pop(a.part, None)
        self.r = there

    def trouble(self, what):
        said('! ' + what)
        self.r['troubles'].setdefault(self.part, []).append(what)

    def keep(self):
        if 'again' not in self.r['meta']:
            self.r['meta']['waited'] = round(stand.waited)
            self.r['meta']['took'] = round((time.monotonic() - self.begun) / 60, 1)
        with open(self.dir + '/results.json.new', 'w') as f: f.write(shown(self.r) + '\n')
        os.replace(self.dir + '/results.json.new', self.dir + '/results.json')
        render.files(self.r, self.dir)

    def run(self):
        self.begun = time.monotonic()
        said(f'{", ".join(self.plan.parts)}: about {self.plan.minutes():.0f} minutes on a quiet machine, '
             f'{self.plan.deadline:.0f} at most; results in {self.dir}')

        def late(*_): raise Late
        signal.signal(signal.SIGALRM, late)
        signal.alarm(max(1, round(self.plan.deadline * 60)))
        try:
            for part in self.plan.parts:
                said(f'== {part}')
                self.part = part
                try: getattr(self, part)()
                except Exception as e: self.trouble(f'{part}: {type(e).__name__}: {e}')
                self.keep()
        except Late: self.trouble(f'the deadline of {self.plan.deadline:g} minutes came: what is missing was not measured')
        finally:                                       # whoever ends it finds what there is
            signal.alarm(0)
            self.keep()
            render.write(self.r, self.dir)
        sh(f'rm -rf {RAW} {RAW}.d {RAW[:-4]}.map', False)

    # ---- once each

    def size(self):
        size = os.path.getsize
        peer = lambda m: size(f'{a.out}/img/vmlinuz') + size(f'{a.out}/img/{m}.img')
        self.r['size'] = dict(lio=peer('lio'), tgtd=peer('tgtd'), ours=size(a.image))

    def boot(self):
        """from QEMU's start to the first INQUIRY; and what each uses when nobody wants anything"""
        net(9000)
        nbd, B, base = Nbd(), self.r.setdefault('boot', {}), self.r.setdefault('base', {})
        board, nic = MICROVM
        make = dict(lio=lambda: Guest('lio'), tgtd=lambda: Guest('tgtd'), ours=lambda: Guest(ours()))
        # The peers need ACPI to find their devices.
        make['lio, microvm'] = lambda: Guest('lio', machine='microvm', nic=nic)
        make['ours, microvm'] = lambda: Guest(ours(board=board), nic=nic)
        for n in range(self.plan.boots):
            for name, f in make.items():
                g = f()
                once = lambda: dict(ms=g.start(20), cpu=sum(cpu(g.p.pid)))
                o = once() if a.quick else quiet(lambda: (g.stop(), once())[1], lambda: [g.p, nbd.p])
                if o['ms'] is None: self.trouble(f'boot of {name}: it did not come up: {g.said()}')
                B.setdefault(name, []).append(o)
                if n == self.plan.boots - 1 and name in ('lio', 'tgtd', 'ours') and o['ms'] is not None:
                    time.sleep(1)
                    c, t = sum(cpu(g.p.pid)), time.monotonic()
                    time.sleep(self.plan.idle)
                    base[name] = dict(idle=(sum(cpu(g.p.pid)) - c) / (time.monotonic() - t) * 100, rss=rss(g.p.pid))
                g.stop()
        nbd.stop()

    def memory(self):
        """the smallest -m that serves under load"""
        net(9000)
        M, nbd = self.r.setdefault('memory', {}), Nbd()
        for name, spec, hi in (('ours', ours(), 16), ('lio', 'lio', 128), ('tgtd', 'tgtd', 128)):
            if name == 'tgtd' and a.quick: continue
            lo, best = 0, None
            while best is None and hi <= 512:
                if single.serves(spec, hi, nbd)[0]: best = hi
                else: lo, hi = hi, hi * 2
            while best and best - lo > max(1, best // (8 if a.quick else 50)):
                m = (lo + best) // 2
                ok = single.serves(spec, m, nbd)[0]
                said(f'{name} -m {m}: {"serves" if ok else "does not serve"}')
                if ok: best = m
                else: lo = m
            M[name] = best
            if not best: self.trouble(f'{name} serves in no memory up to 512 MiB')
            self.keep()
        nbd.stop()

    # ---- instructions: free of noise, so once is enough

    def insn(self):
        for mtu in self.plan.mtus:
            net(mtu)
            for spec in ('lio', 'tgtd', ours(api=True)): self.counted(spec, mtu)

    def counted(self, spec, mtu):
        mp, nbd = f'/dev/shm/{NS}.map', Nbd()
        g = Guest(spec, mtu=mtu, extra=f'-plugin {a.out}/insn.so,map={mp}')
        I = self.r.setdefault('insn', {}).setdefault(str(mtu), {}).setdefault(g.name, {})
        try:
            if g.start(60) is None: return self.trouble(f'{g.name} did not come up under the plugin: {g.said()}')
            mark = lambda: instructions(mp)
            I['boot'] = mark()
            time.sleep(1)
            i = mark()
            time.sleep(seconds := 2 if a.quick else self.plan.idle)
            I['idle'] = (mark() - i) / seconds
            profiled = PROFILED if g.name == 'ours' and a.symbols and mtu == self.plan.mtus[-1] else ()
            for w in works():
                before = snap() if w[0] in profiled else None
                o = g.work(w, nbd, mark=mark)
                if before and 'err' not in o: self.r.setdefault('symbols', {})[w[0]] = most(symbols(before, snap()), o['allops'])
                if 'err' in o: self.trouble(f'{g.name}, {w[0]}, counting: {o["err"]}')
                else: said(f'mtu {mtu} {g.name:6} {w[0]:18} {o["insn"]:10,.0f} instructions')
                I[w[0]] = o.get('insn')
                if g.name == 'ours': self.r.setdefault('counters', {}).setdefault(str(mtu), {})[w[0]] = counters(o)
        finally:
            g.stop()
            nbd.stop()
            if os.path.exists(mp): os.unlink(mp)

    def floor(self):
        """the least a guest can do with the packets of a 4 KiB read; MTU 9000, because it knows no segments"""
        net(9000)
        mp, F = f'/dev/shm/{NS}.map', self.r.setdefault('floor', {})
        # It takes its NICs where the usual firmware has put them.
        spec = f'floor=-M q35 -smp 1 -m 128 -bios bios-256k.bin -kernel {a.out}/floor.elf'
        for counted in (False, True):
            g = Guest(spec, mtu=9000, extra=f'-plugin {a.out}/insn.so,map={mp}' if counted else '')
            g.p = spawn(g.cmd, stderr=open(g.log + '.err', 'w'))
            time.sleep(1.5)
            try:
                for qd in (1, 32):
                    mark = lambda: instructions(mp) if counted else sum(cpu(g.p.pid))
                    m = mark()
                    x = sp.run([a.out + '/udprelay', str(qd), '4144', str(a.dur + 1)], capture_output=True, text=True, timeout=a.dur + 20)
                    used = mark() - m
                    o = json.loads(x.stdout or '{"ops":0}')
                    if not o['ops']:
                        self.trouble(f'floor, QD{qd}: nothing came back; {x.stderr.strip() or g.said()}')
                        continue
                    f = F.setdefault(str(qd), {})
                    if counted: f['insn'] = used / o['ops']
                    else: f.update(iops=o['iops'], p50=o['p50'], p99=o['p99'], us=used * 1e6 / o['ops'])
                    said(f'floor QD{qd} {"counted" if counted else "timed"}: {o["iops"]:,} round trips in a second, {used / o["ops"]:.6g} each')
            finally: g.stop()
        if os.path.exists(mp): os.unlink(mp)

    # ---- A B A B

    def load(self):
        makes = [lambda mtu: Guest('lio', mtu=mtu), lambda mtu: Guest(ours(api=True), mtu=mtu), lambda mtu: Guest('tgtd', mtu=mtu)]
        if a.hosted: makes += [native.Hosted, native.Tgtd]
        for pair in range(self.plan.pairs):
            begun = time.monotonic()
            for mtu in self.plan.mtus:
                net(mtu)
                for make in makes: self.turn(lambda: make(mtu), mtu, pair)
            self.keep()
            took, left = time.monotonic() - begun, self.begun + self.plan.deadline * 60 - time.monotonic()
            if pair + 1 < self.plan.pairs and took > left:
                return self.trouble(f'{pair + 1} of {self.plan.pairs} pairs: no time is left for another ({took:.0f} s)')

    def turn(self, make, mtu, pair):
        """one of them, booted afresh, through all workloads; when one fails it is booted again, once"""
        L = self.r.setdefault('load', {}).setdefault(str(mtu), {})
        nbd, g, again = Nbd(), make(), True
        begun = time.monotonic()
        try:
            if g.start(20) is None: why = f'did not come up: {g.said()}'
            else: why = None if (v := g.verify()) == 'ok' else f'data check: {v}'
            for w in works():
                if not why: o = quiet(lambda: g.work(w, nbd), lambda: [g.p, nbd.p])
                else: o = dict(err=why)
                L.setdefault(w[0], {}).setdefault(g.name, []).append(kept(o))
                if 'err' not in o: continue
                self.trouble(f'mtu {mtu} pair {pair + 1} {g.name} {w[0]}: {o["err"]}')
                if not why:
                    g.stop(), nbd.stop()
                    nbd = Nbd()
                    if not again or g.start(20) is None: why = 'given up after ' + o['err']
                    again = False
        finally:
            g.stop()
            nbd.stop()
        said(f'mtu {mtu} pair {pair + 1} {g.name:16} {time.monotonic() - begun:3.0f} s: ' +
             ' '.join(f'{L[w[0]][g.name][-1].get("iops", 0):.0f}' for w in works()))

    def scale(self):
        net(9000)
        S = self.r.setdefault('scale', {})
        C, makes = self.r.setdefault('scale counted', {}), dict(ours=scale.ours, lio=scale.lio)
        for n in self.plan.counts:
            for name, make in makes.items():
                C.setdefault(name, {})[str(n)] = o = scale.one(make, n, counted=True)
                if 'err' in o: self.trouble(f'{n} sessions of {name}, counting: {o["err"]}')
                else: said(f'{n:2} sessions {name:5} ' + ', '.join(f'{k} {o[k]:,.0f} instructions' for k in scale.LOADS))
        for rep in range(self.plan.scales):
            for n in self.plan.counts:
                for name, make in makes.items():
                    o = scale.one(make, n)
                    S.setdefault(name, {}).setdefault(str(n), []).append(o)
                    if 'err' in o: self.trouble(f'{n} sessions of {name}: {o["err"]}')
                    else: said(f'{n:2} sessions {name:5} ' + ', '.join(f'{k} {o[k]["iops"]:.0f} IOPS' for k in scale.LOADS))
            self.keep()


def counters(o): return {k: v for k, v in o.get('counters', {}).items() if k.startswith(('corbel_stage_cycles', 'corbel_heap'))}


def kept(o): return dict(err=o['err']) if 'err' in o else {k: o[k] for k in KEPT if k in o} | ({'counters': counters(o)} if counters(o) else {})


def most(counts, ops):
    """the symbols that execute most, for one I/O, and all others together"""
    top = sorted(counts, key=counts.get, reverse=True)[:40]
    return {k: counts[k] / ops for k in top} | {render.OTHERS: (sum(counts.values()) - sum(counts[k] for k in top)) / ops}


def shown(x, depth=0):
    """JSON with a line for each sample, and no more digits than mean something"""
    if isinstance(x, float): return f'{x:.6g}'
    if not isinstance(x, (dict, list)) or depth > 5: return json.dumps(json.loads(json.dumps(x), parse_float=lambda f: float(f'{float(f):.6g}')))
    cells = [shown(v, depth + 1) for v in x] if isinstance(x, list) else [f'{json.dumps(k)}: {shown(v, depth + 1)}' for k, v in x.items()]
    ends = '[]' if isinstance(x, list) else '{}'
    if depth > 3 or all(not isinstance(v, (dict, list)) for v in (x if isinstance(x, list) else x.values())): return ends[0] + ', '.join(cells) + ends[1]
    return ends[0] + '\n' + ',\n'.join(cells) + ends[1]


def meta(plan):
    cpu_name = re.search(r'model name\s*:\s*(.*)', open('/proc/cpuinfo').read())
    first = lambda c: (sh(c, False).splitlines() or ['?'])[0]
    return dict(date=time.strftime('%Y-%m-%d %H:%M'), cpu=cpu_name and cpu_name[1], cores=os.cpu_count(), kernel=os.uname().release.split('-')[0],
                qemu=first('qemu-system-x86_64 --version'), nbd=first('nbdkit --version') if a.nbd.startswith('nbdkit') else a.nbd, accel=a.accel,
                image=first(f'sha256sum {a.image}')[:16], commit=first(f'git -C {os.path.dirname(os.path.abspath(__file__))} rev-parse --short HEAD'),
                board=a.board, memory=a.memory, peer_memory=a.mem, pairs=plan.pairs, boots=plan.boots, scales=plan.scales, dur=a.dur, warm=a.warm,
                mtus=plan.mtus, quick=a.quick, idle=plan.idle, scale_memory=scale.MEMORY, scale_qd=scale.QD)


def report():
    if not a.image: raise SystemExit('report wants --image')
    Report().run()
