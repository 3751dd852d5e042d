"""A full disk: python full_disk.py PATH_TO_ICEBOX

As root, on Linux, on a small tmpfs and a small ext4 of its own. The disk is filled by backups and by somebody else; what is new
is refused, reads, updates and deletes go on, health says so; room that is made is noticed without a restart; a start on the
full disk works; and at the end everything that was acknowledged is there.
"""

import subprocess
import sys
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from served import TIMEOUT_S, Server, api, backup_pb2, make_ext4, read_all, work

DISK_MIB = 96
FILLER_MIB = 40
# Longer than it takes until the server checks for room again.
PATIENCE_S = 20


def backup(number, size=16_000):
    metadata = backup_pb2.BackupMetadata(backup_name=f"b{number:06}", container="c", hostname="h")
    for field in ("path_to_backup", "fs_real_path", "vol_snap_path", "log_file"):
        setattr(metadata, field, "/" * (size // 4))
    return backup_pb2.Backup(backup_id=f"{number:032x}", project_id="p", status="creating", backup_metadata=metadata)


class Disk:
    """A small file system of its own."""

    def __init__(self, kind):
        self.kind = kind
        self.mountpoint = work / kind
        self.mountpoint.mkdir()
        if kind == "tmpfs":
            mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", self.mountpoint]
        else:
            image = work / "small.img"
            make_ext4(image, DISK_MIB, "-m", "0")
            mount = ["mount", "-o", "loop", image, self.mountpoint]
        subprocess.run(mount, check=True)
        self.filler = self.mountpoint / "filler"
        self.store = self.mountpoint / "store"

    def fill(self, mib=None):
        """Takes so much room, or all that is left."""
        with open(self.filler, "ab", buffering=0) as file:
            for _ in range(mib or DISK_MIB * 256):
                try:
                    file.write(b"x" * (1 << 20 if mib else 4096))
                except OSError:
                    return

    def make_room(self):
        self.filler.unlink()

    def unmount(self):
        subprocess.run(["umount", self.mountpoint], check=True)


class Catalog:
    """What was acknowledged."""

    def __init__(self, server):
        self.use(server)
        self.known = {}
        self.number = 0

    def use(self, server):
        self.server = server
        self.stub = server.stub()
        self.health = health_pb2_grpc.HealthStub(server.channel())

    def create(self, size=16_000):
        self.number += 1
        item = backup(self.number, size)
        self.stub.CreateBackup(api.CreateBackupRequest(backup=item), timeout=TIMEOUT_S)
        self.known[item.backup_id] = "creating"

    def create_until_full(self):
        for _ in range(20_000):
            try:
                self.create()
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
                return
        raise AssertionError("the disk never was full")

    def update(self, backup_id):
        item = backup_pb2.Backup(backup_id=backup_id, status="available")
        self.stub.UpdateBackup(api.UpdateBackupRequest(project_id="p", backup=item), timeout=TIMEOUT_S)
        self.known[backup_id] = "available"

    def delete(self, backup_id):
        request = api.DeleteBackupRequest(project_id="p", backup_id=backup_id)
        self.stub.DeleteBackup(request, timeout=TIMEOUT_S)
        del self.known[backup_id]

    def check(self):
        stored = read_all(self.stub)
        assert stored == self.known, f"{len(stored)} stored, {len(self.known)} acknowledged"

    def wait_for(self, serving):
        wanted = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for _ in range(PATIENCE_S * 10):
            if self.health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S).status == wanted:
                return
            time.sleep(0.1)
        raise AssertionError(f"health does not come to {'serving' if serving else 'not serving'}")


def run(disk):
    disk.fill(FILLER_MIB)
    server = Server(disk.store)
    catalog = Catalog(server)
    catalog.create_until_full()
    full_at = len(catalog.known)
    assert full_at > 200, f"full after {full_at}"
    catalog.wait_for(serving=False)
    catalog.check()
    first, second, *_ = list(catalog.known)
    catalog.update(first)
    catalog.delete(second)
    disk.make_room()
    catalog.wait_for(serving=True)
    for _ in range(100):
        catalog.create()
    catalog.check()
    status, said = server.terminate()
    assert status == 0, said
    print(f"ok  {disk.kind}: full after {full_at} backups, deletes and updates go on, room is noticed")

    # Somebody else fills it to the last block, under load.
    server = Server(disk.store)
    catalog.use(server)
    catalog.check()
    disk.fill()
    for _ in range(2000):
        try:
            catalog.create(size=2000)
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE), error
            break
    catalog.wait_for(serving=False)
    catalog.check()
    for backup_id in list(catalog.known)[:20]:
        catalog.delete(backup_id)
    catalog.check()
    server.kill()
    print(f"ok  {disk.kind}: filled to the last block, reads and deletes go on")

    # A start needs no new room.
    server = Server(disk.store)
    catalog.use(server)
    catalog.check()
    disk.make_room()
    catalog.wait_for(serving=True)
    for _ in range(100):
        catalog.create()
    catalog.check()
    status, said = server.terminate()
    assert status == 0, said
    server = Server(disk.store)
    catalog.use(server)
    catalog.check()
    server.kill()
    print(f"ok  {disk.kind}: a start on the full disk, and everything acknowledged is there")


def main():
    try:
        for kind in ("tmpfs", "ext4"):
            try:
                disk = Disk(kind)
            except subprocess.CalledProcessError:
                print(f"SKIPPED: full_disk.py on {kind}, since this machine lets nobody mount one")
                continue
            try:
                run(disk)
            finally:
                disk.unmount()
    finally:
        subprocess.run(["rm", "-rf", work])


if __name__ == "__main__":
    sys.exit(main())
