"""A server under fault, spoken to with Python's grpcio.

Imported by the scripts beside it, which are given the path to `icebox` as their first argument.
"""

import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading

import grpc
from grpc_tools import protoc

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
ICEBOX = str(pathlib.Path(sys.argv[1]).resolve())
TIMEOUT_S = 30
PAGES_MAX = 10_000

work = pathlib.Path(tempfile.mkdtemp())
generated = work / "generated"
generated.mkdir()
protos = [str(path.relative_to(REPOSITORY / "proto")) for path in (REPOSITORY / "proto").rglob("*.proto")]
includes = [f"-I{REPOSITORY / 'proto'}", f"-I{pathlib.Path(protoc.__file__).parent / '_proto'}"]
assert protoc.main(["", *includes, f"--python_out={generated}", f"--grpc_python_out={generated}", *protos]) == 0
sys.path.insert(0, str(generated))
from freezer.v2 import backup_pb2, backup_service_pb2 as api, backup_service_pb2_grpc  # noqa: E402


class Server:
    def __init__(self, store, preload=None, environment=None, arguments=()):
        environment = os.environ | {"ICEBOX_LOG": "warn"} | (environment or {})
        if preload:
            environment["LD_PRELOAD"] = str(preload)
        self.process = subprocess.Popen(
            [ICEBOX, "serve", "--listen", "127.0.0.1:0", "--cache-mib", "16", "--store", str(store), *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        first_line = self.process.stderr.readline()
        assert first_line.startswith("{"), first_line + self.process.stderr.read()
        self.address = json.loads(first_line)["fields"]["address"]

    def channel(self):
        # One connection for each caller, so that nothing that happens to one affects another.
        return grpc.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)])

    def stub(self):
        return backup_service_pb2_grpc.BackupServiceStub(self.channel())

    def peak_mib(self):
        """The most that it had in memory."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) >> 10

    def kill(self):
        self.process.kill()
        return self.process.communicate(timeout=TIMEOUT_S)[1]

    def terminate(self):
        self.process.terminate()
        said = self.process.communicate(timeout=TIMEOUT_S)[1]
        return self.process.returncode, said


def read_all(stub):
    stored, token = {}, ""
    for _ in range(PAGES_MAX):
        page = stub.ListBackups(api.ListBackupsRequest(project_id="p", limit=1000, page_token=token), timeout=TIMEOUT_S)
        stored.update((item.backup_id, item.status) for item in page.backups)
        token = page.next_page_token
        if not token:
            return stored
    raise AssertionError("the walk does not end")


def make_ext4(image, mib, *options):
    """The image of an empty disk."""
    with open(image, "wb") as file:
        file.truncate(mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", *options, image], check=True)


class PowerIsOff(Exception):
    """What a caller meets after the cut has begun."""


class Ledger:
    """What was acknowledged, by id: the status that was written last, None once it is deleted. An operation whose answer never
    came, or came after the power was on its way out, is in doubt: either is right."""

    def __init__(self):
        self.known = {}
        self.doubt = {}
        self.lock = threading.Lock()
        self.is_cut = False
        self.next = 0

    def id(self):
        with self.lock:
            self.next += 1
            return f"{self.next:032x}"

    def do(self, backup_id, status, call):
        with self.lock:
            self.go_on()
            self.doubt[backup_id] = status
        call()
        with self.lock:
            self.go_on()
            self.known[backup_id] = status
            del self.doubt[backup_id]

    def go_on(self):
        if self.is_cut:
            raise PowerIsOff

    def begin_cut(self):
        """From here on nobody hears an answer: a power cut takes the server with the disk. The file system that is shut down
        under a server does not, and its fdatasync says OK for some writes that are on their way just then and are lost: a bare
        loop of pwrite and fdatasync sees that in one of ten such cuts."""
        with self.lock:
            self.is_cut = True

    def wrong(self, stored):
        """What is missing, outdated or back."""
        found = []
        for backup_id in self.known.keys() | self.doubt.keys():
            allowed = {self.known.get(backup_id), self.doubt.get(backup_id, self.known.get(backup_id))}
            if stored.get(backup_id) not in allowed:
                found.append((backup_id, stored.get(backup_id), allowed))
        # From here on, what is there now must stay.
        for backup_id in self.doubt:
            self.known[backup_id] = stored.get(backup_id)
        self.doubt.clear()
        self.is_cut = False
        return found


def write(stub, ledger):
    """Creates, updates and deletes until the server does not answer any more."""
    try:
        while True:
            backup_id = ledger.id()
            metadata = backup_pb2.BackupMetadata(
                backup_name=f"name-{random.randrange(50)}", container="c", hostname="h", path_to_backup="/p" * 600
            )
            item = backup_pb2.Backup(
                backup_id=backup_id, project_id="p", status="creating", backup_metadata=metadata
            )
            create = api.CreateBackupRequest(backup=item)
            ledger.do(backup_id, "creating", lambda: stub.CreateBackup(create, timeout=TIMEOUT_S))
            if random.random() < 0.5:
                item = backup_pb2.Backup(backup_id=backup_id, status="available")
                update = api.UpdateBackupRequest(project_id="p", backup=item)
                ledger.do(backup_id, "available", lambda: stub.UpdateBackup(update, timeout=TIMEOUT_S))
            if random.random() < 0.2:
                delete = api.DeleteBackupRequest(project_id="p", backup_id=backup_id)
                ledger.do(backup_id, None, lambda: stub.DeleteBackup(delete, timeout=TIMEOUT_S))
    except (grpc.RpcError, PowerIsOff):
        pass


def start_writers(server, ledger, callers):
    threads = [threading.Thread(target=write, args=(server.stub(), ledger)) for _ in range(callers)]
    for thread in threads:
        thread.start()
    return threads


def wrong_after_a_restart(store, ledger):
    """What a server on a machine that is well again does not have as it was acknowledged."""
    server = Server(store)
    try:
        stored = read_all(server.stub())
    except grpc.RpcError as error:
        return [("the store does not open", error.details(), server.kill())]
    server.kill()
    return ledger.wrong(stored)
