"""A Ceph RBD image over NBD by nbdkit, for a volume with several gateways: whoever is used is the only one.

    nbdkit python rbd.py conf=/etc/ceph/ceph.conf id=gateway pool=corbel image=NAME

Any number of gateways may stand by with the same image. One that is only asked for its size touches nothing. The first
command that needs the data makes it the image's gateway: every other client that has the image open, or holds its
lock, is put on the cluster's blocklist, the lock is taken in the mode that is never given away on request, and only
then is the command executed. What a gateway has answered since cannot be followed by anything an earlier one still had
in hand; what the earlier one is asked from now on, it refuses with ESHUTDOWN, which sends its client elsewhere.

So nothing but the volume's one user may connect and read: not a backup, not a health check that does more than ask for
the size.
"""

import errno
import json
import threading
import time

import nbdkit
import rados
import rbd

API_VERSION = 2

# How long the old gateway stays locked out. It must be longer than any process can sleep and wake up unnoticed.
EXPIRE = 7 * 24 * 3600
# How long a command waits for the takeover before it is refused (and its client comes again).
PATIENCE = 20

parameters = {"conf": "/etc/ceph/ceph.conf", "id": "gateway", "pool": "rbd", "image": None}
lock = threading.Lock()
current = None


def config(key, value):
    if key not in parameters:
        raise RuntimeError("no parameter is called " + key)
    parameters[key] = value


def config_complete():
    if parameters["image"] is None:
        raise RuntimeError("image=NAME is missing")


def thread_model():
    # librbd is called without Python's own lock held, so commands do run side by side.
    return nbdkit.THREAD_MODEL_PARALLEL


class Shutdown(Exception):
    """This gateway was replaced by another one."""


class Session:
    """One client of the cluster, from its start until it is replaced; the cluster can lock it out as a whole."""

    def __init__(self):
        # Without librbd's cache an answered write is on the OSDs, and the next gateway knows all that was answered.
        # The blocklist is written here and not by librbd when it breaks a lock: librbd 16.2 writes the time of expiry
        # in a form that the monitor refuses, and without one it is an hour.
        settings = {"rbd_cache": "false", "rbd_blocklist_on_break_lock": "false"}
        self.cluster = rados.Rados(rados_id=parameters["id"], conffile=parameters["conf"], conf=settings)
        self.cluster.connect(timeout=PATIENCE)
        try:
            self.pool = self.cluster.open_ioctx(parameters["pool"])
            self.image = rbd.Image(self.pool, parameters["image"])
            if not self.image.features() & rbd.RBD_FEATURE_EXCLUSIVE_LOCK:
                raise RuntimeError("the image lacks the feature exclusive-lock")
        except BaseException:
            self.cluster.shutdown()
            raise
        self.mine = False
        self.replaced = False

    def take(self):
        """Makes this the only client that can change the image."""
        start = time.monotonic()
        while not self.mine:
            self.fence()
            try:
                self.image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
                self.mine = True
            except (rbd.ImageBusy, rbd.ReadOnlyImage):
                # Somebody came in between, or the OSD has not noticed yet that the old holder is out.
                if time.monotonic() - start > PATIENCE:
                    raise
                time.sleep(0.05)
        nbdkit.debug("took over in %.3f s" % (time.monotonic() - start))

    def fence(self):
        # A holder of the lock that lost its watch, and a client with a watch that holds no lock yet: both could write.
        owners = {owner["owner"] for owner in self.image.lock_get_owners()}
        own = self.cluster.get_instance_id()
        watchers = {watcher["addr"] for watcher in self.image.watchers_list() if watcher["id"] != own}
        for address in owners | watchers:
            self.blocklist(address)
        # From here on every request of this client carries the map that shuts the others out.
        self.cluster.wait_for_latest_osdmap()
        for owner in owners:
            try:
                self.image.lock_break(rbd.RBD_LOCK_MODE_EXCLUSIVE, owner)
            except (rbd.ImageNotFound, rbd.ImageBusy):
                # Gone by itself, or another's by now; the next round sees.
                pass

    def blocklist(self, address):
        command = {"prefix": "osd blocklist", "blocklistop": "add", "addr": address, "expire": float(EXPIRE)}
        code, _, said = self.cluster.mon_command(json.dumps(command), b"")
        if code != 0:
            raise OSError(-code, said)

    def close(self):
        try:
            self.image.close()
        finally:
            self.pool.close()
            self.cluster.shutdown()


def enter(session):
    """Called before every command."""
    if not session.mine and not session.replaced:
        with lock:
            try:
                session.take()
            except (rbd.Error, rados.Error, OSError) as error:
                # Nothing was executed, so this is no error of the disk: the client shall come again, here or elsewhere.
                nbdkit.debug("cannot take over: %s" % error)
                session.replaced = True
    if session.replaced:
        raise Shutdown


def guarded(command):
    """A command on the image, its errors made those of NBD."""

    def run(session, *arguments):
        try:
            enter(session)
            return command(session, *arguments)
        except Shutdown:
            nbdkit.set_error(errno.ESHUTDOWN)
            raise
        except (rbd.Error, rados.Error, OSError) as error:
            number = abs(getattr(error, "errno", None) or errno.EIO)
            # ESHUTDOWN is what the cluster answers to a client that is on its blocklist.
            if number in (errno.ESHUTDOWN, errno.EROFS):
                session.replaced = True
                number = errno.ESHUTDOWN
            nbdkit.set_error(number)
            raise

    return run


def session_now():
    """The session that connections share; a fresh one after this gateway was replaced and is used again."""
    global current
    with lock:
        if current is None or current.replaced:
            current = Session()
            current.users = 0
        current.users += 1
        return current


def open(readonly):
    return session_now()


def close(session):
    global current
    with lock:
        session.users -= 1
        if session.users > 0:
            return
        if session is current:
            current = None
        session.close()


def get_size(session):
    # Not remembered: an image that has grown shows it to the next connection.
    return session.image.size()


def block_size(session):
    return (512, 4096, 32 << 20)


def can_multi_conn(session):
    # All connections share one client of the cluster, without a cache.
    return True


def can_write(session):
    return True


def can_flush(session):
    return True


def can_fua(session):
    # Every write is through when it is answered.
    return nbdkit.FUA_NATIVE


def can_trim(session):
    return True


def can_zero(session):
    return True


def can_fast_zero(session):
    return False


@guarded
def pread(session, buffer, offset, flags):
    buffer[:] = session.image.read(offset, len(buffer))


@guarded
def pwrite(session, buffer, offset, flags):
    session.image.write(bytes(buffer), offset)


@guarded
def flush(session, flags):
    session.image.flush()


@guarded
def trim(session, count, offset, flags):
    session.image.discard(offset, count)


@guarded
def zero(session, count, offset, flags):
    thick = 0 if flags & nbdkit.FLAG_MAY_TRIM else rbd.RBD_WRITE_ZEROES_FLAG_THICK_PROVISION
    session.image.write_zeroes(offset, count, zero_flags=thick)
