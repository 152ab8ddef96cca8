"""The results of a report as tables in Markdown and as a plot."""
import json
import math
import os
import re
import statistics as st

import plot
from options import WORK

NAMES = {'4k rnd rd q1': '4 KiB random read, QD1', '4k rnd wr q1': '4 KiB random write, QD1',
         '4k rnd rd q32': '4 KiB random read, QD32', '4k rnd wr q32': '4 KiB random write, QD32',
         '16k mix 70/30 q16': '16 KiB random, 70 % reads, QD16', '64k seq rd q8': '64 KiB sequential read, QD8',
         '64k seq wr q8': '64 KiB sequential write, QD8', '1m seq rd q4': '1 MiB sequential read, QD4',
         '1m seq wr q4': '1 MiB sequential write, QD4'}
BYTES = {w[0]: w[3] for w in WORK}
SHOWN = {'ours': 'Corbel', 'lio': 'LIO', 'tgtd': 'tgtd', 'hosted': 'Corbel, hosted', 'tgtd on the host': 'tgtd on the host'}
OTHERS = 'everything else'
BESIDE = {'hosted': 'tgtd on the host'}                # what each is compared with; the rest with LIO


# ---- figures

def good(samples): return [o for o in samples or [] if 'err' not in o]


def quartiles(x):
    """(lower quartile, median, upper quartile)"""
    x = sorted(v for v in x if v is not None and math.isfinite(v))
    if not x: return None
    if len(x) == 1: return (x[0],) * 3
    return tuple(st.quantiles(x, n=4, method='inclusive'))


def of(samples, key): return quartiles([o.get(key) for o in good(samples)])


def ratios(these, those, value):
    """pair by pair; value of a sample, larger is better"""
    pairs = [(x, y) for x, y in zip(these or [], those or []) if 'err' not in x and 'err' not in y]
    return quartiles([value(x) / value(y) for x, y in pairs if value(y)])


def rate(o): return o['iops']
def quickness(o): return 1 / max(o['p50'], .5)
def thrift(o): return 1 / o['us'] if o['us'] else 0


# ---- cells

def num(x):
    if x is None: return '–'
    return f'{x:,.0f}' if abs(x) >= 100 else f'{x:.3g}'


def cell(q, show=num, why=''):
    """a median with its quartiles, or why there is none"""
    if not q: return why or '–'
    return show(q[1]) + (f' [{show(q[0])}..{show(q[2])}]' if show(q[0]) != show(q[2]) else '')


def times(q): return cell(q, lambda x: f'{x:.2f}' if x < 10 else f'{x:.1f}')


def plain(q, show=num): return show(q[1]) if q else '–'


def reason(samples):
    errs = [o['err'] for o in samples or [] if 'err' in o]
    return re.sub(r'[|\n]', ' ', errs[-1])[:80] if errs else ''


def table(head, rows):
    align = '|---' * len(head)
    return '\n'.join('| ' + ' | '.join(r) + ' |' for r in [head]) + f'\n{align}|\n' + '\n'.join('| ' + ' | '.join(r) + ' |' for r in rows)


# ---- tables

def base(r):
    """what is measured once of each guest"""
    boot, size, mem, idle, insn = (r.get(k, {}) for k in ('boot', 'size', 'memory', 'base', 'insn'))
    insn = next(iter(reversed(insn.values())), {}) if insn else {}
    ms = lambda g: of_boot(boot.get(g))
    line = lambda name, f, better=None: [name] + [f(g) for g in ('lio', 'tgtd', 'ours')] + [better() if better else '']
    over = lambda d: lambda: f'1/{d("lio") / d("ours"):.1f}' if d('lio') and d('ours') else ''
    rows = []
    if boot:
        rows.append(line('boot to first INQUIRY, q35, ms', lambda g: cell(ms(g)), over(lambda g: (ms(g) or [0, 0])[1])))
        rows.append(line('the same, microvm, ms', lambda g: cell(ms(g + ', microvm')), over(lambda g: (ms(g + ', microvm') or [0, 0])[1])))
    if insn:
        get = lambda k: lambda g: (insn.get(g) or {}).get(k)
        rows.append(line('instructions until served, M', lambda g: num(get('boot')(g) and get('boot')(g) / 1e6), over(get('boot'))))
        rows.append(line('instructions in an idle second', lambda g: num(get('idle')(g)), over(get('idle'))))
    if mem: rows.append(line('smallest `-m` that serves under load, MiB', lambda g: num(mem.get(g)), over(mem.get)))
    if size: rows.append(line('image (peers: vmlinuz and lz4 initramfs), KiB', lambda g: num(size[g] / 1024), over(size.get)))
    if idle:
        get = lambda k: lambda g: (idle.get(g) or {}).get(k)
        rows.append(line('idle, % of a core', lambda g: num(get('idle')(g)), over(get('idle'))))
        rows.append(line(f'QEMU RSS after boot, MiB (`-m {r["meta"]["memory"]}`, peers {r["meta"]["peer_memory"]})', lambda g: num(get('rss')(g)), over(get('rss'))))
    return table(['', 'LIO', 'tgtd', 'Corbel', 'Corbel / LIO'], rows) if rows else ''


def of_boot(samples): return quartiles([o['ms'] for o in samples or [] if o.get('ms')])


def loads(r, mtu):
    """everything under load at this MTU, a line for each of them and each workload"""
    L, I, rows = r.get('load', {}).get(mtu, {}), r.get('insn', {}).get(mtu, {}), []
    for w in [w[0] for w in WORK]:
        guests = list(dict.fromkeys([*L.get(w, {}), *(g for g in I if w in I[g])]))
        for g in sorted(guests, key=list(SHOWN).index):
            s, n, b = L.get(w, {}).get(g), (I.get(g) or {}).get(w), BYTES[w]
            ref = BESIDE.get(g, 'lio')
            against = L.get(w, {}).get(ref) if g != ref and g != 'tgtd on the host' else None
            x = [times(ratios(s, against, f)) if against else '' for f in (rate, quickness, thrift)]
            rows.append([NAMES[w], SHOWN[g], cell(of(s, 'iops'), why=reason(s)), plain(of(s, 'mibs')),
                         f'{plain(of(s, "p50"))} / {plain(of(s, "p99"))}', plain(of(s, 'us'), lambda v: f'{v / 10:.2f}'),
                         plain(of(s, 'gib'), lambda v: f'{v:.2f}'), num(n), f'{n / b:.2f}' if n else '–', *x])
    return table(['workload', '', 'IOPS [quartiles]', 'MiB/s', 'p50 / p99, µs', 'CPU s per 100k I/Os', 'CPU s per GiB', 'instructions per I/O', 'per byte',
                  '× IOPS', '× quicker (p50)', '× less CPU'], rows) if rows else ''


def hosted(r):
    """the appliance as a process beside tgtd: I/Os for a second of the process's CPU"""
    rows = []
    for mtu, L in r.get('load', {}).items():
        for w in [w[0] for w in WORK if 'hosted' in L.get(w[0], {})]:
            h, t = L[w]['hosted'], L[w].get('tgtd on the host')
            per = lambda s: quartiles([1e6 / o['us'] for o in good(s) if o['us']])
            rows.append([mtu, NAMES[w], cell(of(h, 'iops'), why=reason(h)), cell(of(t, 'iops'), why=reason(t)), plain(per(h)), plain(per(t)), times(ratios(h, t, thrift)),
                         plain(of(h, 'all')), plain(of(t, 'all'))])
    return table(['MTU', 'workload', 'IOPS, Corbel', 'IOPS, tgtd', 'IOPS per CPU s, Corbel', 'IOPS per CPU s, tgtd', 'Corbel / tgtd',
                  'whole machine, µs per I/O, Corbel', 'whole machine, tgtd'], rows) if rows else ''


def floor(r):
    rows, F = [], r.get('floor', {})
    L, I = r.get('load', {}).get('9000', {}), r.get('insn', {}).get('9000', {})
    for qd, w in (('1', '4k rnd rd q1'), ('32', '4k rnd rd q32')):
        f = F.get(qd)
        if not f: continue
        for g in ('ours', 'lio', 'tgtd'):
            n, s = (I.get(g) or {}).get(w), (L.get(w) or {}).get(g)
            d = lambda a, b: f'{a / b:.2f}' if a and b else '–'
            i, us = (of(s, k) for k in ('iops', 'us'))
            rows.append([f'QD{qd}', SHOWN[g], num(n), num(f.get('insn')), d(n, f.get('insn')), plain(i), num(f.get('iops')), d(f.get('iops'), i and i[1]),
                         plain(us), num(f.get('us')), d(us and us[1], f.get('us'))])
    return table(['4 KiB read', '', 'instructions', 'of the floor', '×', 'IOPS', 'of the floor', '÷', 'CPU, µs', 'of the floor', '×'], rows) if rows else ''


def counters(r):
    """what the appliance counts by itself, for one I/O; without the plugin's slowness where there is a timed run"""
    rows = []
    stage = re.compile(r'corbel_stage_cycles_total\{stage="(\w+)"\}')
    stages = []
    for mtu in r.get('meta', {}).get('mtus', []):
        timed, counted = r.get('load', {}).get(str(mtu), {}), r.get('counters', {}).get(str(mtu), {})
        for w in [w[0] for w in WORK]:
            samples = [o['counters'] for o in good(timed.get(w, {}).get('ours')) if o.get('counters')] or [x for x in [counted.get(w)] if x]
            if not samples: continue
            m = {k: st.median([s[k] for s in samples if k in s]) for k in samples[0]}
            stages = stages or [x[1] for k in m if (x := stage.fullmatch(k))]
            per = {s: m.get(f'corbel_stage_cycles_total{{stage="{s}"}}') for s in stages}
            heap = m.get('corbel_heap_allocations_total')
            rows.append([str(mtu), NAMES[w], '–' if heap is None else f'{max(0, heap):.4f}'] + [num(per.get(s)) for s in stages])
    return table(['MTU', 'workload', 'allocations'] + [f'cycles: {s}' for s in stages], rows) if rows else ''


def symbols(r):
    """the functions of the image that execute most, for one I/O"""
    S = r.get('symbols', {})
    most = {w: sorted((n for n in H if n != OTHERS), key=H.get, reverse=True)[:15] for w, H in S.items()}
    names = dict.fromkeys(n for top in most.values() for n in top)
    part = lambda w, n: S[w].get(n, 0) / sum(S[w].values()) * 100
    rows = [[f'`{n[:100]}`'] + [f'{num(S[w][n])} ({part(w, n):.0f} %)' if n in S[w] else '–' for w in S] for n in names]
    rows.append(['all'] + [num(sum(H.values())) for H in S.values()])
    return table(['function (with what was inlined into it)'] + [NAMES[w] for w in S], rows) if S else ''


def scaling(r):
    S, C, rows = r.get('scale', {}), r.get('scale counted', {}), []
    for name in ('ours', 'lio'):
        first = None
        for n, samples in sorted(S.get(name, {}).items(), key=lambda x: int(x[0])):
            ok = good(samples)
            if not ok:
                rows.append([n, SHOWN[name], reason(samples)] + [''] * 8)
                continue
            m = lambda f: quartiles([f(o) for o in ok])
            mem = m(lambda o: o['rss'])[1]
            c = C.get(name, {}).get(n, {})
            first = first or (int(n), mem)
            each = (mem - first[1]) / (int(n) - first[0]) if int(n) > first[0] else None
            fair = lambda k: m(lambda o: o[k]['slowest'] / o[k]['fastest'] if o[k]['fastest'] else 0)
            rows.append([n, SHOWN[name], cell(m(lambda o: o['read']['iops'])), plain(fair('read'), lambda v: f'{v:.2f}'), cell(m(lambda o: o['write']['iops'])),
                         plain(fair('write'), lambda v: f'{v:.2f}'), f'{m(lambda o: o["read"]["p50"])[1]:,.0f} / {m(lambda o: o["read"]["p99"])[1]:,.0f}', f'{num(c.get("read"))} / {num(c.get("write"))}', num(mem),
                         '–' if each is None else f'{each:.2f}', plain(m(lambda o: o['free'] / 2**20)) if all(o.get('free') for o in ok) else '–'])
    return table(['sessions and LUNs', '', 'read IOPS', 'slowest / fastest', 'write IOPS', 'slowest / fastest', 'read p50 / p99, µs', 'instructions per read / write', 'QEMU RSS, MiB',
                  'more per session, MiB', 'free in the appliance, MiB'], rows) if rows else ''


def bars(r):
    """(label, {series: (lower, median, upper)}, what is to be reached): how many times better than the peer"""
    out, mtus = [], list(r.get('load', {}))
    for w in [w[0] for w in WORK]:
        row = {f'MTU {m}': q for m in mtus if (q := ratios(*(r['load'][m].get(w, {}).get(g) for g in ('ours', 'lio')), rate))}
        if row: out.append((NAMES[w] + ': IOPS', row, 3 if w.endswith('q32') else 2 if w.startswith('1m') else None))
    for w in ('4k rnd rd q1', '4k rnd wr q1'):
        row = {f'MTU {m}': q for m in mtus if (q := ratios(*(r['load'][m].get(w, {}).get(g) for g in ('ours', 'lio')), quickness))}
        if row: out.append((NAMES[w] + ': shorter p50', row, 1 / .6))
    for w, most in (('4k rnd rd q32', 8000), ('4k rnd wr q32', None), ('1m seq rd q4', 1 << 19), ('1m seq wr q4', 1 << 19)):
        row, goal = {}, None
        for m, I in r.get('insn', {}).items():
            x, y = ((I.get(g) or {}).get(w) for g in ('lio', 'ours'))
            if x and y: row[f'MTU {m}'], goal = (x / y,) * 3, most and x / most
        if row: out.append((NAMES[w] + ': fewer instructions', row, goal))
    once = lambda name, x, y, goal: out.append((name, {'once': (x / y,) * 3}, goal)) if x and y else None
    b = r.get('boot', {})
    for board in ('', ', microvm'):
        x, y = (of_boot(b.get(g + board)) for g in ('lio', 'ours'))
        if x and y: once(f'boot to INQUIRY{board or ", q35"}: shorter', x[1], y[1], 25)
    for part, name in (('memory', 'smallest memory'), ('size', 'image')): once(name + ': smaller', *(r.get(part, {}).get(g) for g in ('lio', 'ours')), 20)
    for w in ('4k rnd rd q32', '4k rnd wr q32'):
        row = {f'MTU {m}': q for m in mtus if (q := ratios(*(r['load'][m].get(w, {}).get(g) for g in ('hosted', 'tgtd on the host')), thrift))}
        if row: out.append((f'hosted against tgtd, {NAMES[w]}: IOPS per CPU s', row, 2))
    return out


# ---- the whole

def text(r):
    m = r['meta']
    head = (f'{m["date"]}, commit {m["commit"]}, image {m["image"]}; {m["cpu"]}, {m["cores"]} cores, Linux {m["kernel"]}; {m["qemu"].split(" (")[0]}, '
            f'`-accel {m["accel"]}`, one vCPU, {m["board"]}; {m["nbd"]} on a file in memory. {m["pairs"]} pairs of {m["dur"]} s in turn, '
            f'{m["boots"]} boots; median [quartiles]; ratios are medians of the pairs\' own ratios, above 1 is better for Corbel. '
            f'It took {m.get("took", "?")} minutes, {m.get("waited", 0)} s of them waiting for a quiet machine; '
            f'others used {noise(r)} of a core beside the samples (median, worst).'
            + ''.join(f' Measured again on {date}: {part}.' for part, date in m.get('again', {}).items()))
    out = [('', head), ('Of each guest', made(base, r))]
    for mtu in dict.fromkeys([*r.get('load', {}), *r.get('insn', {})]):
        out.append((f'Under load, MTU {mtu}', made(loads, r, mtu)))
    out += [('As a process, beside tgtd on the same host', made(hosted, r)), ('Distance to the floor', made(floor, r)),
            ('What the appliance counts, for one I/O', made(counters, r)),
            ('Where the guest\'s instructions go, for one I/O', made(symbols, r)),
            (f'Sessions and LUNs (4 KiB random, QD{m["scale_qd"]} each, `-m {m["scale_memory"]}`, MTU 9000)', made(scaling, r)),
            ('What went wrong', '\n'.join('- ' + re.sub(r'\s+', ' ', t) for part in r['troubles'].values() for t in part))]
    if m['quick']: out.insert(1, ('', '**A quick run: one short sample of each. Believe the instruction counts and nothing else.**'))
    return '\n\n'.join((f'### {title}\n\n' if title else '') + body for title, body in out if body) + '\n'


def noise(r):
    n = [o['noise'] for L in r.get('load', {}).values() for gs in L.values() for s in gs.values() for o in good(s) if 'noise' in o]
    return f'{st.median(n):.0f} and {max(n):.0f} %' if n else 'an unknown part'


def made(table, *args):
    """one of the tables; what is wrong with it does not take the others along"""
    try: return table(*args)
    except Exception as e: return f'This table cannot be made of what was measured: {type(e).__name__}: {e}'


def files(r, folder):
    """results.md and ratios.svg beside results.json; answers the tables"""
    words = text(r)
    with open(folder + '/results.md', 'w') as f: f.write(words)
    try:
        if rows := bars(r):
            with open(folder + '/ratios.svg', 'w') as f: f.write(plot.svg(rows, 'Corbel beside the Linux peer: how many times better'))
    except Exception as e: words += f'\nThe plot cannot be made of what was measured: {type(e).__name__}: {e}\n'
    return words


def write(r, folder):
    """the same, and shows the tables"""
    print(f'\n{files(r, folder)}\n{folder}: results.json, results.md, ratios.svg', flush=True)


def anew(file):
    with open(file) as f: r = json.load(f)
    write(r, os.path.dirname(os.path.abspath(file)))
