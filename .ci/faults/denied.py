"""What the system does not allow: python denied.py PATH_TO_ICEBOX

A store on a medium that may only be read, a store that belongs to somebody else, and too few file descriptors. What is wrong is said
in one line that names the file, nothing is changed, and connections are taken again as soon as there are descriptors.
"""

import os
import resource
import socket
import subprocess
import sys
import time

import grpc
from served import ICEBOX, TIMEOUT_S, Server, api, backup_pb2, make_ext4, work

BACKUPS = 50
FILES = 64
NOBODY = 65534
PATIENCE_S = 20


def create(stub, number):
    metadata = backup_pb2.BackupMetadata(backup_name=f"b{number}", container="c", hostname="h")
    item = backup_pb2.Backup(backup_id=f"{number:032x}", project_id="p", backup_metadata=metadata)
    stub.CreateBackup(api.CreateBackupRequest(backup=item), timeout=TIMEOUT_S)


def listed(stub):
    return len(stub.ListBackups(api.ListBackupsRequest(project_id="p"), timeout=TIMEOUT_S).backups)


def filled(store):
    server = Server(store)
    stub = server.stub()
    for number in range(BACKUPS):
        create(stub, number)
    code, said = server.terminate()
    assert code == 0, said
    return store.read_bytes()


def icebox(*arguments, user=None):
    command = [ICEBOX, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, user=user, stdin=subprocess.DEVNULL)
    return done.returncode, (done.stdout + done.stderr).strip()


def refused(said, path, why, code):
    assert code == 1 and str(path) in said and why in said.lower() and "panic" not in said, (code, said)
    # The log line with the address may come first.
    assert len(said.splitlines()) <= 2, said


def read_only_medium():
    """The image of a disk, mounted once to write and then to read alone."""
    mountpoint, image = work / "disk", work / "disk.img"
    mountpoint.mkdir()
    make_ext4(image, 64, "-m", "0")
    if subprocess.run(["mount", "-o", "loop", image, mountpoint]).returncode:
        print("SKIPPED: a medium that may only be read, since this machine lets nobody mount a loop device")
        return
    try:
        store = mountpoint / "store"
        before = filled(store)
        subprocess.run(["mount", "-o", "remount,ro", mountpoint], check=True)
        code, said = icebox("serve", "--listen", "127.0.0.1:0", "--store", store)
        refused(said, store, "read-only", code)
        # Reads go on.
        code, said = icebox("verify", store)
        assert code == 0 and f"{BACKUPS} backups" in said, said
        code, said = icebox("restore", store, "--store", work / "restored")
        assert code == 0, said
        code, said = icebox("export", "--store", store, "--project", "p", "--out", work / "exported.json")
        assert code == 0, said
        assert store.read_bytes() == before
        subprocess.run(["mount", "-o", "remount,rw", mountpoint], check=True)
        server = Server(store)
        assert listed(server.stub()) == BACKUPS
        server.terminate()
    finally:
        subprocess.run(["umount", mountpoint], check=True)
    print("ok  a medium that may only be read: serve is refused, verify, restore and export go on")


def somebody_elses():
    if os.geteuid() != 0:
        print("SKIPPED: somebody else's store, since that takes root")
        return
    directory = work / "closed"
    directory.mkdir()
    store = directory / "store"
    before, names = filled(store), set(os.listdir(directory))
    for path in (work, directory):
        path.chmod(0o755)
    for command in (["serve", "--listen", "127.0.0.1:0", "--store", store], ["verify", store]):
        code, said = icebox(*command, user=NOBODY)
        refused(said, store, "permission denied", code)
    code, said = icebox("serve", "--listen", "127.0.0.1:0", "--store", directory / "new", user=NOBODY)
    refused(said, directory / "new", "permission denied", code)
    assert store.read_bytes() == before
    assert set(os.listdir(directory)) == names
    print("ok  a store that belongs to somebody else: refused, and as it was")


def too_few_files():
    """There are too few while the server runs."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    server = Server(work / "few")
    pid = server.process.pid
    try:
        quick = server.stub()
        create(quick, 0)
        open_files = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files + 3, hard))
        host, port = server.address.rsplit(":", 1)
        others = [socket.create_connection((host, int(port)), timeout=TIMEOUT_S) for _ in range(20)]
        time.sleep(1)
        # Callers that are connected are answered meanwhile, and can write.
        create(quick, 1)
        assert listed(quick) == 2
        for other in others:
            other.close()
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                assert listed(server.stub()) == 2
                break
            except grpc.RpcError:
                assert time.monotonic() < deadline, "no connection is taken any more"
                time.sleep(0.2)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
        code, said = server.terminate()
        assert code == 0 and "panic" not in said and "no connection can be accepted" in said, said
    finally:
        if server.process.poll() is None:
            server.process.kill()


def few_from_the_start():
    """There are few from the start on, so that fewer connections are taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
    try:
        server = Server(work / "limited")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        host, port = server.address.rsplit(":", 1)
        others = [socket.create_connection((host, int(port)), timeout=TIMEOUT_S) for _ in range(2 * FILES)]
        time.sleep(1)
        assert len(os.listdir(f"/proc/{server.process.pid}/fd")) < FILES
        for other in others:
            other.close()
        stub = server.stub()
        for number in range(BACKUPS):
            create(stub, number)
        assert listed(stub) == BACKUPS
        code, said = server.terminate()
        assert code == 0 and "panic" not in said, said
    finally:
        if server.process.poll() is None:
            server.process.kill()


def main():
    try:
        read_only_medium()
        somebody_elses()
        too_few_files()
        few_from_the_start()
        print(f"ok  {FILES} file descriptors, and too few while it runs: connections wait, and are taken again")
    finally:
        subprocess.run(["rm", "-rf", work])


if __name__ == "__main__":
    sys.exit(main())
