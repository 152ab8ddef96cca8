"""Where the guest's instructions go, from the counts of the TCG plugin (insn.c)."""
import array
import bisect

from options import NS
from stand import a, sh


BASE, STEP = 0xffffffff80000000, 2 << 20       # where the image is linked, and what it is moved by


def snap():
    """how often each translated block of the guest was run so far"""
    with open(f'/dev/shm/{NS}.map', 'rb') as f: f.seek(32); return f.read()


def blocks(s): x = array.array('Q'); x.frombytes(s); return {(v, n): c for v, n, c in zip(x[0::3], x[1::3], x[2::3]) if c}


def symbols(s0, s1):
    """instructions between two snaps by symbol"""
    ls = sh(f'nm -C {a.symbols}').splitlines() if a.symbols else open(a.out + '/kallsyms'); H = {}
    S = sorted((int(x, 16), n.split('\t')[0]) for x, t, n in (l.rstrip().split(' ', 2) for l in ls if l[:1] != ' ') if t in 'tTwW'); K = [s[0] for s in S]
    s0, s1 = blocks(s0), blocks(s1)
    # Each boot moves the image by a number of 2 MiB. Its lowest code, within the first two, is that of the boot itself.
    moved = min((va for va, n in s1 if va >> 63), default=BASE) - BASE & ~(STEP - 1) if a.symbols else 0
    for (va, n), c in s1.items():
        d = c - s0.get((va, n), 0)
        if d: s = S[max(0, bisect.bisect(K, va - moved) - 1)][1] if va >> 63 else '[user]'; H[s] = H.get(s, 0) + d * n
    return H


def prof(s0, s1, ops):
    H = symbols(s0, s1)
    for s, c in sorted(H.items(), key=lambda x: -x[1])[:a.prof]: print(f'      {c / ops:9.1f} {c / sum(H.values()) * 100:5.1f}%  {s}')
