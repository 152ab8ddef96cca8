"""The appliance as a Linux process, and tgtd natively on the same host.

Ours is reached as a virtual machine is, over a TAP device, and gets its bytes over another from the NBD server: two TCP
connections and two stacks of its own. tgtd, which speaks no NBD without the kernel's client, is reached over loopback and
reads and writes the file itself: it is spared half of the work."""
import subprocess as sp
import time

from options import IQN
from stand import API, HOST1, IP0, IP1, RAW, Target, a, net, sh


class Hosted(Target):
    name = 'hosted'

    def __init__(self, mtu):
        self.mtu, self.url, self.log = mtu, f'iscsi://{IP0}/{IQN}/0', f'{a.out}/hosted.log'
        self.metrics = f'http://{IP1}:{API}/v1/metrics'

    def start(self, timeout=20):
        for i in (0, 1): sh(f'ip neigh flush all dev pt{i}; ip neigh del 10.77.{i}.2 dev pt{i}', False)   # its NICs have addresses of their own
        return self.boot([a.hosted, '--host', 'pt0', '--service', 'pt1', f'host.address={IP0}/24', f'service.address={IP1}/24', f'api={API}',
                          f'target.0.iqn={IQN}', f'target.0.volume=nbd://{HOST1}/', 'target.0.initiators=*', 'log=warn'], timeout)

    def stop(self):
        super().stop()
        net(self.mtu)


class Tgtd(Target):
    """one LUN through asynchronous I/O, one through threads that read and write: small I/Os are cheapest by the first, large
    ones by the second, and each is measured where it is best"""
    name = 'tgtd on the host'
    TUNED = ('ImmediateData=Yes InitialR2T=No MaxBurstLength=1048576 FirstBurstLength=262144 MaxRecvDataSegmentLength=1048576 '
             'MaxXmitDataSegmentLength=1048576 MaxOutstandingR2T=8 MaxQueueCmd=128').split()
    STORES = ('aio', 'rdwr')                           # LUN 1 and 2
    LARGE = 1 << 16

    def __init__(self, mtu):
        self.url, self.log = f'iscsi://127.0.0.1/{IQN}/1', f'{a.out}/tgtd.log'
        root = f'{a.out}/root/tgtd'                    # as in the guest: nothing is installed on this machine
        self.env = ['env', f'TGT_IPC_SOCKET={a.out}/tgtd.socket', f'LD_LIBRARY_PATH={root}/lib/x86_64-linux-gnu']
        self.bin = f'{root}/bin/'

    def start(self, timeout=20): return self.boot(self.env + [self.bin + 'tgtd', '-f', '--iscsi', 'portal=127.0.0.1:3260'], timeout)

    def stop(self):
        if self.p and self.p.poll() is None: self.p.kill()   # asked to end, it takes ten seconds
        super().stop()

    def begun(self):
        end = time.monotonic() + 10
        while self.admin('--mode system --op show') and time.monotonic() < end: time.sleep(.02)
        self.admin(f'--op new --mode target --tid 1 -T {IQN}')
        for p in self.TUNED: self.admin('--op update --mode target --tid 1 --name %s --value %s' % tuple(p.split('=')))
        for n, store in enumerate(self.STORES): self.admin(f'--op new --mode logicalunit --tid 1 --lun {n + 1} -b {RAW} --bstype {store}')
        self.admin('--op bind --mode target --tid 1 -I ALL')

    def admin(self, words):
        try: return sp.run(self.env + [self.bin + 'tgtadm', '--lld', 'iscsi'] + words.split(), capture_output=True, timeout=5).returncode
        except sp.TimeoutExpired: return 1

    def work(self, w, *args, **more):
        self.url = self.url[:-1] + ('2' if w[3] >= self.LARGE else '1')
        return super().work(w, *args, **more)
