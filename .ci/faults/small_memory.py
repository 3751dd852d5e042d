"""A server that has 256 MiB: python small_memory.py PATH_TO_ICEBOX

Where there are cgroups for memory, and as root, the system kills it when it takes more; elsewhere its peak is looked at.
First, 64 connections write the largest records there are, 100 at a time each, and some walk the whole list of 20,000 others. Then, at
other servers, 1,000 watchers do not read what is written, once small records and once the largest. With ICEBOX_LONG=1 the list of a
million backups is walked as well, after a restart.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import grpc
from served import ICEBOX, TIMEOUT_S, Server, api, backup_pb2, read_all, work

LIMIT_MIB = 256
# The settings for so little memory. With the defaults it was 230 at the most, on a busy machine.
LIMITS = ["--stalled-mib-max", "16", "--calls-mib-max", "4"]
BACKUPS = 20_000
WATCHED = 10_000
WATCHED_LARGEST = 300
LONG_LIST = 1_000_000
LONG_WALKS_S = 30
IMPORT_TIMEOUT_S = 900
CONNECTIONS = 64
STREAMS = 100
WATCHERS = 1000
LISTERS = 4
# With the longest texts in all of these fields a record almost has the largest size.
TEXT_BYTES = 4096
TEXTS = (
    "path_to_backup fs_real_path vol_snap_path container_segments client_os client_version os_auth_version proxy log_file "
    "ssh_username ssh_key consistency_checksum engine_name mode action"
).split()
# Without room it says so. No other failure is allowed.
ANSWERS = {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}


class Cgroup:
    """What may take no more memory than that. Nothing happens where there is no such thing."""

    def __init__(self, pid):
        self.path = None
        for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
            path = pathlib.Path(root) / f"icebox-test-{pid}"
            try:
                path.mkdir()
            except OSError:
                continue
            self.path = path
            try:
                (path / limit).write_text(str(LIMIT_MIB << 20))
                (path / "cgroup.procs").write_text(str(pid))
                return
            except OSError:
                self.remove()

    def remove(self):
        if self.path:
            self.path.rmdir()
            self.path = None


def fill(server, backups, first=0):
    documents = work / "documents.json"
    with documents.open("w") as file:
        for number in range(first, first + backups):
            metadata = {"backup_name": f"host-{number % 1000}", "container": "c", "hostname": "h", "path_to_backup": "/data" * 100}
            file.write(json.dumps({"backup_id": f"{number:032x}", "backup_metadata": metadata}) + "\n")
    command = [ICEBOX, "import", "--quiet", "--into-project", "p", "--server", server.address, str(documents)]
    subprocess.run(command, check=True, timeout=IMPORT_TIMEOUT_S, stdout=subprocess.DEVNULL)


def largest(name):
    texts = {text: "x" * TEXT_BYTES for text in TEXTS}
    metadata = backup_pb2.BackupMetadata(backup_name=name, container="c", hostname="h", **texts)
    return api.CreateBackupRequest(backup=backup_pb2.Backup(project_id="p", backup_metadata=metadata))


def write(stub, connection, answers, acknowledged):
    """A hundred at once."""
    calls = [stub.CreateBackup.future(largest(f"large-{connection}"), timeout=TIMEOUT_S) for _ in range(STREAMS)]
    for call in calls:
        answers.append(call.code())
        if call.code() == grpc.StatusCode.OK:
            acknowledged.append(call.result().backup.backup_id)


def walk(stub, answers, ends):
    token = ""
    while not ends.is_set():
        try:
            page = stub.ListBackups(api.ListBackupsRequest(project_id="p", limit=1000, page_token=token), timeout=TIMEOUT_S)
            token = page.next_page_token
            answers.append(grpc.StatusCode.OK)
        except grpc.RpcError as error:
            answers.append(error.code())


@contextlib.contextmanager
def walking(server):
    """Some walk the whole list meanwhile. Gives what they are answered."""
    answers, ends = [], threading.Event()
    listers = [threading.Thread(target=walk, args=(server.stub(), answers, ends)) for _ in range(LISTERS)]
    for lister in listers:
        lister.start()
    try:
        yield answers
    finally:
        ends.set()
        for lister in listers:
            lister.join()


class Limited:
    """A server in its cgroup."""

    def __init__(self, name):
        self.server = Server(work / name, arguments=LIMITS)
        self.cgroup = Cgroup(self.server.process.pid)

    def __enter__(self):
        return self

    def figures(self):
        assert self.server.process.poll() is None, "it was killed"
        peak = self.server.peak_mib()
        assert peak <= LIMIT_MIB, f"{peak} MiB"
        return f"{peak} of {LIMIT_MIB} MiB at the most, limited by {self.cgroup.path or 'nobody'}"

    def __exit__(self, *_):
        if self.server.process.poll() is None:
            self.server.process.kill()
        self.server.process.wait()
        self.cgroup.remove()


def large_writes_and_long_lists():
    with Limited("large") as limited:
        server = limited.server
        fill(server, BACKUPS)
        written, acknowledged = [], []
        with walking(server) as listed:
            writers = [
                threading.Thread(target=write, args=(server.stub(), number, written, acknowledged)) for number in range(CONNECTIONS)
            ]
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join()
        figures = limited.figures()
        answers = {code.name: written.count(code) for code in set(written)}
        assert set(written) | set(listed) <= ANSWERS, answers
        assert acknowledged and grpc.StatusCode.OK in listed, answers
        stored = read_all(server.stub())
        assert stored.keys() >= set(acknowledged), "what was acknowledged is missing"
        print(f"ok  largest creates at once: {answers}; {len(listed)} pages of {len(stored)} meanwhile; {figures}")


def watchers_that_do_not_read(name, write_some, count):
    """Half of it is written before they come."""
    with Limited(name) as limited:
        server = limited.server
        write_some(server, 0)
        stubs = [server.stub() for _ in range(WATCHERS // STREAMS)]
        watches = [stub.WatchBackups(api.WatchBackupsRequest(project_id="p")) for stub in stubs for _ in range(STREAMS)]
        # The watchers still wait for the stored backups when these come.
        write_some(server, count)
        figures = limited.figures()
        for watch in watches:
            watch.cancel()
        assert len(read_all(server.stub())) == 2 * count
        print(f"ok  {WATCHERS} watchers that do not read, {count} backups ({name}) and as many more: {figures}")


def write_small(server, first):
    fill(server, WATCHED, first)


def write_largest(server, first):
    stub = server.stub()
    for number in range(first, first + WATCHED_LARGEST):
        stub.CreateBackup(largest(f"large-{number}"), timeout=TIMEOUT_S)


def a_long_list():
    with Limited("long") as limited:
        fill(limited.server, LONG_LIST)
        limited.server.terminate()
    with Limited("long") as limited:
        with walking(limited.server) as answers:
            time.sleep(LONG_WALKS_S)
        assert set(answers) == {grpc.StatusCode.OK}, set(answers)
        print(f"ok  {len(answers)} pages of {LONG_LIST} backups: {limited.figures()}")


def main():
    try:
        large_writes_and_long_lists()
        watchers_that_do_not_read("small", write_small, WATCHED)
        watchers_that_do_not_read("largest", write_largest, WATCHED_LARGEST)
        if os.environ.get("ICEBOX_LONG"):
            a_long_list()
    finally:
        subprocess.run(["rm", "-rf", work])


if __name__ == "__main__":
    sys.exit(main())
