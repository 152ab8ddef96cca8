"""The stand: a network namespace with two TAP devices, an NBD server on a file in memory, and between them a guest under
QEMU. Here is how they are started and ended, and how time, CPU and packets of one run of a workload are read."""
import argparse
import atexit
import ctypes
import functools
import glob
import json
import os
import re
import shlex
import signal
import statistics as st
import struct
import subprocess as sp
import sys
import time
import urllib.request

from options import HERE, IQN, NS, WORK

a = argparse.Namespace()                               # the options of this run; filled in by enter()

LINUX = ('-M {machine} -smp {smp} -m {mem} -kernel {out}/img/{kernel} -initrd {out}/img/%s.img -append "console=ttyS0 quiet '
         'loglevel=3 panic=-1 mitigations=off nokaslr tsc=reliable tsc_early_khz={khz} no_timer_check init_on_alloc=0 '
         'hardened_usercopy=off cryptomgr.notests random.trust_cpu=on preempt=none audit=0 lsm=capability psi=0 '
         'clearcpuid=erms,fsrm,rep_good ip0={ip0}/24 ip1={ip1}/24 nbd={nbd} iqn={iqn} conns={conns} {append} mode=%s"')
PEERS = {m: LINUX % (m, m) for m in ('lio', 'tgtd', 'tool')}
LUN = {'tgtd': 1}
IQN1 = IQN.replace('disk0', 'disk1')
IP0, IP1, HOST0, HOST1 = '10.77.0.2', '10.77.1.2', '10.77.0.1', '10.77.1.1'
RAW, MAC = f'/dev/shm/{NS}.raw', '52:54:00:77:0%d:02'
KHZ = round(float(re.search(r'bogomips\s*:\s*([\d.]+)', open('/proc/cpuinfo').read()).group(1)) * 500)   # TCG guests see the host TSC
QBOOT = 'qboot.rom'                                    # firmware that does no more than a kernel of `-kernel` needs
API = 8080                                             # port of our image's management API, where it is asked for


def enter(options):
    """goes into the namespace, once, with everything that follows"""
    vars(a).update(vars(options))
    if os.environ.get('BENCH_NS') != NS:
        if sp.run(['ip', 'netns', 'pids', NS], capture_output=True).returncode:
            sp.run(['ip', 'netns', 'add', NS], check=True)
        os.execvpe('ip', ['ip', 'netns', 'exec', NS, sys.executable] + sys.argv, dict(os.environ, BENCH_NS=NS))
    if parent := os.environ.get('BENCH_PARENT'):       # to enter a namespace has cleared the signal that its end sends
        LIBC.prctl(PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent): sys.exit(1)
    os.setsid()
    with open('/proc/self/autogroup', 'w') as f: f.write(str(a.nice))   # with autogroups only the group's nice counts; children inherit
    atexit.register(end)
    signal.signal(signal.SIGTERM, lambda *x: sys.exit(1))
    if a.net == 'slirp': a.mtu = 1500
    sh(f'make -s -C {HERE} OUT={a.out}')
    net(a.mtu)


# ---- processes: long-lived children end with us, whatever happens

KIDS = []
PDEATHSIG, LIBC = 1, ctypes.CDLL(None)


def spawn(c, **k):
    KIDS[:] = [kid for kid in KIDS if kid.poll() is None]
    KIDS.append(sp.Popen(c, preexec_fn=lambda: LIBC.prctl(PDEATHSIG, signal.SIGKILL), **k))
    return KIDS[-1]


@functools.cache
def quick_firmware():
    """what QEMU has of it"""
    folders = sp.run(['qemu-system-x86_64', '-L', 'help'], capture_output=True, text=True).stdout.splitlines()
    return ['-bios', QBOOT] if any(os.path.exists(f'{f}/{QBOOT}') for f in folders) else []


def firmware(words):
    """the quick firmware for a guest on a PC's board that names no other; a microvm has its own"""
    board = next((board for flag, board in zip(words, words[1:]) if flag in ('-M', '-machine')), '')
    return [] if '-bios' in words + shlex.split(a.qemu) or board.startswith('microvm') else quick_firmware()


def end():
    for kid in KIDS:
        if kid.poll() is None: kid.kill()


def sh(c, check=True): return sp.run(c, shell=True, check=check, capture_output=True, text=True).stdout


def net(mtu):
    sh('ip link set lo up; sysctl -qw net.ipv4.tcp_rmem="4096 1048576 8388608" net.ipv4.tcp_wmem="4096 1048576 8388608" net.ipv4.tcp_congestion_control=reno', False)
    for i in (0, 1):
        sh(f'ip link show pt{i} || ip tuntap add dev pt{i} mode tap vnet_hdr', False)
        sh(f'ip addr replace 10.77.{i}.1/24 dev pt{i}; ip link set pt{i} mtu {mtu} up txqueuelen 1000')
        sh(f'ip neigh replace 10.77.{i}.2 lladdr {MAC % i} dev pt{i} nud permanent')


# ---- what the processes used

def cpu(pid):
    """CPU seconds so far of a process: (vCPU threads, other threads)"""
    v = o = 0.0
    for t in glob.glob(f'/proc/{pid}/task/*'):
        try: s, c = int(open(t + '/schedstat').read().split()[0]) / 1e9, open(t + '/comm').read()
        except OSError: continue
        if c.startswith('CPU '): v += s
        else: o += s
    return v, o


def ptime(pid):
    """CPU seconds of a process including threads that ended"""
    try: return sum(map(int, open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()[11:13])) / os.sysconf('SC_CLK_TCK')
    except OSError: return 0


def rss(pid, k='VmRSS'): return int(re.search(k + r':\s+(\d+)', open(f'/proc/{pid}/status').read()).group(1)) / 1024


def busy(): return sum(int(x) for i, x in enumerate(open('/proc/stat').readline().split()[1:9]) if i not in (3, 4)) / 100


def mine(procs):
    """CPU seconds so far of this script, its finished children and the given running ones"""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system + sum(ptime(q.pid) for q in procs if q and q.poll() is None)


def instructions(file):
    """what the guest has executed so far, by the TCG plugin (insn.c)"""
    with open(file, 'rb') as f: return struct.unpack('<Q', f.read(8))[0]


calm = False                                           # whether the last sample was undisturbed
waited = 0.0                                           # seconds that all waits for a quiet machine have taken


def quiet(fn, procs=lambda: []):
    """run fn() -> dict when other processes leave the machine alone (where they did so last, nobody waits to see it);
    redo it (5 times at most) when they did not; adds 'noise': the CPU they used meanwhile, % of one core"""
    global waited, calm
    best = None
    for _ in range(5):
        n, t = 2 if calm else 0, time.monotonic()
        while n < 2 and time.monotonic() - t < min(a.patience, a.budget - waited):
            b, o = busy(), mine(procs())
            time.sleep(.5)
            n = n + 1 if busy() - b - mine(procs()) + o < a.quiet / 200 else 0
        waited += max(0, time.monotonic() - t - 1)     # it takes a second to see that there is nothing to wait for
        b, o, t = busy(), mine(procs()), time.monotonic()
        r = fn()
        took = time.monotonic() - t
        r['noise'] = max(0, (busy() - b - mine(procs()) + o) / took * 100)
        if best is None or r['noise'] < best['noise']: best = r
        calm = r['noise'] <= a.quiet * 1.5
        if calm or 'err' in r or waited >= a.budget: break
        waited += took
    return best


# ---- the storage service

class Nbd:
    """one export on a file in memory; with `disks` so many exports disk0, disk1, ... which are all that file"""
    def __init__(self, size=None, kind=None, raw=RAW, port=10809, disks=0):
        size, kind = size or a.size, kind or a.nbd
        if not os.path.exists(raw) or os.path.getsize(raw) != size << 20: sh(f'head -c {size}M /dev/urandom > {raw}')
        c = {'qemu-nbd': f'qemu-nbd -t -e 32 -f raw --discard=unmap -b 0.0.0.0 -p {port} {raw}', 'nbdkit': f'nbdkit -f -p {port} file {raw}',
             'nbdkit-mem': f'nbdkit -f -p {port} memory {size}M'}[kind]
        if disks:
            folder = raw + '.d'
            sh(f'rm -rf {folder}; mkdir {folder}')
            for i in range(disks): os.link(raw, f'{folder}/disk{i}')
            c = f'nbdkit -f -t 8 -p {port} file dir={folder}'
        self.p = spawn(shlex.split(c), stderr=sp.DEVNULL)
        time.sleep(0.3)

    def stop(self):                                    # a vanished guest leaves its connections open: do not wait for them
        self.p.kill()
        self.p.wait()


# ---- what is measured

class Target:
    """anything that serves an iSCSI disk: a process `p`, reached at `url`"""
    p = None
    metrics = None                                     # the address of its counters, where it has some
    last = 0                                           # the disk that is up last: what %d in `url` stands for while it boots

    def boot(self, command, timeout):
        """starts it; returns ms from there to the first login and INQUIRY, None when it never came up"""
        pr = spawn([a.out + '/ibench', 'probe', self.url.replace('%d', str(self.last)), str(timeout)], stdout=sp.PIPE, stderr=sp.DEVNULL)
        t0 = time.monotonic()
        self.p = spawn(command, stdout=open(self.log + '.out', 'w'), stderr=open(self.log + '.err', 'w'))
        self.begun()
        while pr.poll() is None and self.p.poll() is None: time.sleep(0.001)
        ms = (time.monotonic() - t0) * 1e3
        if pr.poll() is None: pr.terminate()
        return ms if pr.wait() == 0 else None

    def begun(self): pass

    def stop(self):
        if not self.p: return
        if self.p.poll() is None: self.p.terminate()
        try: self.p.wait(10)
        except sp.TimeoutExpired:
            self.p.kill()
            self.p.wait()

    def said(self):
        """the last it had to say, for a message"""
        for f in (self.log, self.log + '.err', self.log + '.out'):
            try: lines = [x.strip() for x in open(f, errors='replace').read().splitlines() if x.strip()]
            except OSError: continue
            if lines: return re.sub(r'\x1b\[[0-9;?]*[a-zA-Z]', '', lines[-1])[:160]
        return 'it said nothing'

    def ibench(self, mode, *args, limit=30):
        c = [a.out + '/ibench', mode, self.url] + [str(x) for x in args]
        try: return sp.run(c, capture_output=True, text=True, timeout=limit)
        except sp.TimeoutExpired: return sp.CompletedProcess('', 1, '', f'no end within {limit:.0f} s')

    def verify(self):
        r = self.ibench('verify', 2000)
        o = json.loads(r.stdout or '{"verify":"FAIL"}')
        if o['verify'] == 'ok' and a.nbd != 'nbdkit-mem':   # the last block must be in the file behind the NBD server, too
            with open(RAW, 'rb') as f:
                f.seek(o['last_lba'] * o['blk'])
                w = struct.unpack('<512Q', f.read(4096))
            if any(x != ((o['last_lba'] << 16 | i) ^ 0x5a5a0f0f3c3c9669) for i, x in enumerate(w)): return 'BACKEND MISMATCH'
        return o['verify']

    def counters(self):
        """the counters of the appliance, {} where nobody answers"""
        if not self.metrics: return {}
        try:
            with urllib.request.urlopen(self.metrics, timeout=2) as r: text = r.read().decode()
        except (OSError, ValueError): return {}
        return {m[1]: float(m[2]) for m in re.finditer(r'^(\w+(?:\{[^}]*\})?) ([\d.eE+-]+)$', text, re.M)}

    def pkts(self): return [sum(int(open(f'/sys/class/net/pt{i}/statistics/{d}_packets').read()) for d in ('rx', 'tx')) for i in (0, 1)]

    def work(self, w, nbd, dur=None, warm=None, mark=lambda: 0, sessions=1):
        """one run of a workload: what the initiator saw, and by I/O what everybody used for it"""
        dur, warm = a.dur if dur is None else dur, a.warm if warm is None else warm
        n, rw, pat, bs, qd, *rate = w
        more = ['1000000', sessions, *rate] if sessions > 1 or rate else []
        asked = self.counters()
        m0 = self.counters()                           # twice: what the asking itself costs is taken off
        c0, b0, i0, k0, s0 = cpu(self.p.pid), nbd and ptime(nbd.p.pid) or 0, mark(), self.pkts(), busy()
        r = self.ibench('run', rw, pat, bs, qd, warm, dur, *more, limit=warm + dur + 15)
        c1, b1, i1, k1, s1 = cpu(self.p.pid), nbd and ptime(nbd.p.pid) or 0, mark(), self.pkts(), busy()
        m1 = self.counters()
        if r.returncode: return dict(err=r.stderr.strip() or f'rc {r.returncode}')
        o = json.loads(r.stdout)
        if not o['ops']: return dict(err='not one command ended')
        k, used = 1e6 / o['allops'], sum(c1) - sum(c0)
        o.update(insn=(i1 - i0) / o['allops'], pk0=(k1[0] - k0[0]) / o['allops'], pk1=(k1[1] - k0[1]) / o['allops'],
                 vcpu=(c1[0] - c0[0]) * k, io=(c1[1] - c0[1]) * k, srv=(b1 - b0) * k, ini=o['cpu'] * k, us=used * k,
                 all=(s1 - s0) * k, gib=used / (o['allops'] * bs / 2**30))
        if m1: o['counters'] = {x: (v - 2 * m0.get(x, 0) + asked.get(x, 0)) / o['allops'] for x, v in m1.items() if '_total' in x}
        return o


class Guest(Target):
    def __init__(self, spec, mem=None, extra='', net=None, mtu=None, nicopt=None, append='', log='guest', limit='', nic=None, machine=None):
        net, mtu, nicopt = net or a.net, mtu or a.mtu, a.nicopt if nicopt is None else nicopt
        self.name, frag = spec.split('=', 1) if '=' in spec else (spec, PEERS[spec])
        v = dict(vars(a), ip0=IP0, ip1=IP1, nbd=f'{HOST1}:10809', iqn=IQN, nbd1=f'{HOST1}:10810', iqn1=IQN1, limit=limit, khz=KHZ,
                 append=a.append + ' ' + append, mem=mem or a.mem, machine=machine or a.machine)
        q = shlex.split(re.sub(r'\{(\w+)\}', lambda m: str(v[m.group(1)]), frag))
        if '=' in spec and (mem or '-m' not in q): q += ['-m', str(v['mem'])]
        q += firmware(q)
        for i in (0, 1):
            be = f'tap,id=n{i},ifname=pt{i},script=no,downscript=no,vhost=off' if net == 'tap' else \
                 f'user,id=n{i},ipv6=off,net=10.77.{i}.0/24,host=10.77.{i}.1' + (f',hostfwd=tcp:127.0.0.1:3260-{IP0}:3260' if not i else '')
            o = f'{nic or a.nic},netdev=n{i},mac={MAC % i}' + (f',host_mtu={mtu}' if mtu != 1500 else '') + (',' + nicopt if nicopt else '')
            q += ['-netdev', be, '-device', o]
        self.lun = LUN.get(self.name, 0)
        self.addr = IP0 if net == 'tap' else '127.0.0.1'
        self.url = dict(x.split('=', 1) for x in a.url).get(self.name, 'iscsi://{addr}/%s/%d' % (IQN, self.lun)).replace('{addr}', self.addr)
        self.log, self.net, self.p = f'{a.out}/{log}-{self.name}.log', net, None
        if any(f'api={API}' in x for x in q): self.metrics = f'http://{IP1}:{API}/v1/metrics'
        self.cmd = (['taskset', '-c', a.pin] if a.pin else []) + [
            'qemu-system-x86_64', '-accel', a.accel, '-cpu', 'max', '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot',
            '-serial', 'file:' + self.log, '-name', 'g,debug-threads=on'] + q + shlex.split(a.qemu) + shlex.split(extra)

    def start(self, timeout=60):
        """boot; returns ms from QEMU exec to the first login+INQUIRY, None when it never came up"""
        if self.net == 'tap': sh('ip link set pt0 txqueuelen 8')     # so the boot is not met by a queue of stale SYNs
        if self.name == 'tool':
            self.p = spawn(self.cmd, stderr=open(self.log + '.err', 'w'))
            time.sleep(5)
            return 0
        ms = self.boot(self.cmd, timeout)
        if self.net == 'tap': sh('ip link set pt0 txqueuelen 1000')
        return ms


# ---- figures

def med(x):
    x = [v for v in x if v is not None]
    return st.median(x) if x else float('nan')


def spread(x):
    x = [v for v in x if v is not None]
    return (max(x) - min(x)) / 2 / med(x) * 100 if x and med(x) else 0


def save(kind, d):
    d = dict(kind=kind, label=a.label, net=a.net, mtu=a.mtu, smp=a.smp, nbd=a.nbd, conns=a.conns, nicopt=a.nicopt, **d)
    if a.json:
        with open(a.json, 'a') as f: f.write(json.dumps(d) + '\n')


def works(): return [w for w in WORK if re.search(a.only, w[0])]
