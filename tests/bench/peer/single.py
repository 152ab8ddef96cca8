"""One figure at a time: throughput, boot, memory, instructions, and what the parts do without a guest between them."""
import json
import os
import re
import shlex
import struct
import subprocess as sp
import time

import stand
from options import IQN, NS, WORK
from blocks import prof, snap
from stand import HOST1, RAW, Guest, Nbd, a, cpu, med, quiet, rss, save, sh, spawn, spread, works


def load():
    R, B = {}, {}
    for rep in range(a.reps):
        for spec in a.guest:
            nbd = Nbd(); g = Guest(spec); b = B.setdefault(g.name, dict(boot=[], idle=[], rss0=[], rss=[], ok=[])); ms = g.start(); b['boot'].append(ms)
            if ms is not None:
                time.sleep(1); b['rss0'].append(rss(g.p.pid)); c = cpu(g.p.pid); time.sleep(a.idle); d = cpu(g.p.pid)
                b['idle'].append((sum(d) - sum(c)) / a.idle * 100 if a.idle else 0); b['ok'].append(g.verify())
                for w in works():
                    o = quiet(lambda: g.work(w, nbd), lambda: [g.p, nbd.p]); save('load', dict(guest=g.name, work=w[0], rep=rep, **o))
                    if 'err' in o: print(f'# {g.name} {w[0]}: {o["err"]}', flush=True)
                    else: R.setdefault(w[0], {}).setdefault(g.name, []).append(o)
                b['rss'].append(rss(g.p.pid))
            else: print(f'# {g.name}: did not come up, see {g.log}', flush=True)
            g.stop(); nbd.stop(); save('base', dict(guest=g.name, rep=rep, **{k: v[-1] for k, v in b.items() if v}))
    print(f'\nnet={a.net} mtu={a.mtu} smp={a.smp} nbd={a.nbd} conns={a.conns} {a.nicopt} {a.label}; medians of {a.reps}; us/IO: CPU of QEMU (vCPU + other threads), initiator, NBD server')
    print(f'{"workload":14} {"guest":8} {"IOPS":>8} {"MiB/s":>8} {"+-%":>4} {"p50us":>7} {"p99us":>8} {"QEMU/IO":>8} {"vcpu":>7} {"other":>7} {"s/GiB":>6} {"init/IO":>7} {"srv/IO":>7} {"pkt0/IO":>7} {"pkt1/IO":>7} {"noise%":>6} {"xIOPS":>6} {"xCPU":>6}   (x: relative to the first guest)')
    for w, gs in R.items():
        ref = None
        for g, os_ in gs.items():
            m = {k: med([o[k] for o in os_]) for k in os_[0] if k != 'counters'}; ref = ref or m
            print(f'{w:14} {g:8} {m["iops"]:8.0f} {m["mibs"]:8.1f} {spread([o["iops"] for o in os_]):4.0f} {m["p50"]:7.0f} {m["p99"]:8.0f} {m["us"]:8.0f} {m["vcpu"]:7.0f} '
                  f'{m["io"]:7.0f} {m["gib"]:6.2f} {m["ini"]:7.0f} {m["srv"]:7.0f} {m["pk0"]:7.2f} {m["pk1"]:7.2f} {m["noise"]:6.0f} {m["iops"] / ref["iops"]:6.2f} {m["us"] / ref["us"]:6.2f}')
    for g, b in B.items():
        print(f'{g}: boot {med(b["boot"]):.0f} ms, idle {med(b["idle"]):.2f}% of a core, QEMU RSS {med(b["rss0"]):.0f} MiB after boot, {med(b["rss"]):.0f} MiB after load, data check {b["ok"]}')


def boot():
    T = {}; nbd = Nbd(); g = None
    def once():
        g.stop(); ms = g.start(); return dict(ms=ms, cpu=sum(cpu(g.p.pid)), rss=rss(g.p.pid) if g.p.poll() is None else None)
    for rep in range(a.reps):
        for spec in a.guest:
            g = Guest(spec); r = quiet(once, lambda: [g.p, nbd.p]); g.stop(); T.setdefault(g.name, []).append(r); save('boot', dict(guest=g.name, **r))
    nbd.stop()
    for g, t in T.items():
        print(f'{g:8} boot median {med([x["ms"] for x in t]):6.0f} ms  QEMU CPU {med([x["cpu"] for x in t]):.2f} s  RSS {med([x["rss"] for x in t]):.0f} MiB  noise {med([x["noise"] for x in t]):.0f}%  '
              f'all {[x["ms"] and round(x["ms"]) for x in t]} ({a.machine} {a.kernel} smp {a.smp} {a.net} {a.label})', flush=True)


# what a guest has to stand to be said to serve in so much memory
SERVED = ('4k rnd rd q32', '1m seq rd q4', '1m seq wr q4')


def serves(g, m, nbd):
    g = Guest(g, mem=m); ms = g.start(timeout=20); ok = False
    if ms is not None: ok = g.verify() == 'ok' and all('err' not in g.work(w, nbd, 1, 0) for w in WORK if w[0] in SERVED)
    r = rss(g.p.pid) if g.p.poll() is None else 0; g.stop(); return ok, r, ms


def minmem():
    nbd = Nbd()
    for spec in a.guest:
        lo, hi, last = 0, a.mem, None
        while hi - lo > max(1, hi // 50):
            m = (lo + hi) // 2; ok, r, ms = serves(spec, m, nbd); print(f'#  -m {m}: {"serves" if ok else "no"}', flush=True)
            if ok: hi, last = m, (r, ms)
            else: lo = m
        print(f'{spec.split("=")[0]}: smallest -m {hi} MiB, RSS there {last and round(last[0])} MiB, boot {last and last[1] and round(last[1])} ms'); save('minmem', dict(guest=spec.split('=')[0], m=hi, rss=last and last[0]))
    nbd.stop()


def insn():
    for spec in a.guest:
        mp = f'/dev/shm/{NS}.map'; nbd = Nbd(); g = Guest(spec, extra=f'-plugin {a.out}/insn.so,map={mp}', append='syms=9999' if a.prof else '')
        sy = spawn(['socat', '-u', f'TCP-LISTEN:9999,reuseaddr,bind={HOST1}', f'CREATE:{a.out}/kallsyms']) if a.prof and '=' not in spec else None
        ms = g.start(); f = open(mp, 'rb', 0)
        def mark(): f.seek(0); return struct.unpack('<Q', f.read(8))[0]
        print(f'{g.name}: {mark() / 1e6:.0f} M instructions until served'); i = mark(); time.sleep(5); print(f'  idle: {(mark() - i) / 5e3:.0f} k instructions/s')
        for w in works():
            s0 = snap() if a.prof else 0
            o = g.work(w, nbd, mark=mark); save('insn', dict(guest=g.name, work=w[0], **o))
            print(f'  {w[0]:14} {o["insn"]:9.0f} instructions/IO  {o["insn"] / w[3]:7.2f} per byte  ({o["iops"]:.0f} IOPS, vcpu {o["vcpu"]:.0f} us/IO, other {o["io"]:.0f} under the plugin)', flush=True)
            if a.prof: prof(s0, snap(), o['allops'])
        g.stop(); nbd.stop(); os.unlink(mp)
        if sy: sy.terminate(); sy.wait()


def show(ref, w, R):
    m = {k: med([r[k] for r in R]) for k in R[0]}; save('ref', dict(ref=ref, work=w[0], **m))
    print(f'{ref:22} {w[0]:14} {m["iops"]:8.0f} IOPS {m["mibs"]:8.1f} MiB/s  +-{spread([r["iops"] for r in R]):.0f}%  p50 {m["p50"]:6.0f} p99 {m["p99"]:6.0f} us  noise {m["noise"]:.0f}%', flush=True)


def refs():
    def direct(w):
        rw = {'rrand': 'randread', 'wrand': 'randwrite', 'rseq': 'read', 'wseq': 'write'}[w[1] + w[2]]
        x = sh(f'fio --name=x --ioengine=nbd --uri=nbd://127.0.0.1 --rw={rw} --bs={w[3]} --iodepth={w[4]} --time_based --ramp_time=1 --runtime={a.dur} --size={a.size}m --lat_percentiles=1 --clat_percentiles=0 --output-format=json --randrepeat=0')
        j = json.loads(x[x.index('{'):])['jobs'][0]['read' if w[1] == 'r' else 'write']; q = j['lat_ns']['percentile']
        return dict(iops=j['iops'], mibs=j['bw_bytes'] / 2**20, p50=q['50.000000'] / 1e3, p99=q['99.000000'] / 1e3)
    for kind in ('nbdkit', 'qemu-nbd', 'nbdkit-mem'):
        nbd = Nbd(kind=kind)
        for w in works(): show('direct NBD ' + kind, w, [quiet(lambda: direct(w), lambda: [nbd.p]) for _ in range(a.reps)])
        nbd.stop()
    s = a.out + '/tgtd.sock'; env = dict(os.environ, TGT_IPC_SOCKET=s); t = spawn(['tgtd', '-f', '--iscsi', 'portal=127.0.0.1:3260'], env=env, stderr=sp.DEVNULL); time.sleep(0.7)
    for c in (f'--op new --mode target --tid 1 -T {IQN}', f'--op new --mode logicalunit --tid 1 --lun 1 -b {RAW}', '--op bind --mode target --tid 1 -I ALL'):
        sp.run(['tgtadm', '--lld', 'iscsi'] + c.split(), env=env, check=True)
    for w in works(): show('host tgtd over a file', w, [quiet(lambda: json.loads(sh(f'{a.out}/ibench run iscsi://127.0.0.1/{IQN}/1 {w[1]} {w[2]} {w[3]} {w[4]} 1 {a.dur}')), lambda: [t]) for _ in range(a.reps)])
    t.kill(); t.wait()


def tcp():
    off = 'guest_tso4=off,guest_tso6=off,guest_ufo=off,guest_ecn=off,host_tso4=off,host_tso6=off,host_ufo=off,host_ecn=off'
    for net_, mtu, nicopt in [('tap', 1500, ''), ('tap', 9000, ''), ('tap', 1500, off), ('tap', 9000, off), ('tap', 1500, off + ',csum=off,guest_csum=off'), ('slirp', 1500, '')]:
        stand.net(mtu); g = Guest('tool', net=net_, mtu=mtu, nicopt=nicopt, append='gso=off' if nicopt else '')
        if net_ == 'slirp': g.cmd = [x.replace('tcp:127.0.0.1:3260-10.77.0.2:3260', 'tcp:127.0.0.1:5201-10.77.0.2:5201') for x in g.cmd]
        g.start()
        for d, f in (('into guest', ''), ('out of guest', '-R')):
            R = []
            def one():
                for _ in range(5):             # iperf3 -R now and then reports "server busy"
                    c = cpu(g.p.pid); j = json.loads(sh(f'iperf3 -c {g.addr} {f} -t {a.dur} -O 1 -J', False) or '{}'); e = cpu(g.p.pid)
                    if 'sum_received' in j.get('end', {}): break
                    time.sleep(1)
                r = j['end']['sum_received']; k = 2**30 / (r['bytes'] * (a.dur + 1) / a.dur + 1); return dict(m=(r['bits_per_second'] / 2**23, (e[0] - c[0]) * k, (e[1] - c[1]) * k))
            R = [quiet(one, lambda: [g.p])['m'] for _ in range(a.reps)]
            m = [med(x) for x in zip(*R)]; lab = 'tso+csum' if not nicopt else ('no tso, no csum' if 'guest_csum' in nicopt else 'no tso')
            print(f'raw TCP {net_} mtu {mtu} {lab:16} {d:13} {m[0]:8.1f} MiB/s  QEMU CPU s/GiB: vcpu {m[1]:.2f} other {m[2]:.2f}', flush=True); save('tcp', dict(net_=net_, mtu_=mtu, lab=lab, dir=d, mibs=m[0]))
        g.stop()
    stand.net(a.mtu)
