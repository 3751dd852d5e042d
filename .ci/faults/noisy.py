"""A project that wants more than its share, beside one that does not: python noisy.py PATH_TO_ICEBOX

One project's caller may have 2 calls under way and tries to have 20. What another project's caller waits for an answer then is
compared with what it waits while the same noise is made at another server on the same machine: so the processor that the noise takes
counts on both sides, and what is left is what sharing a server costs.
"""

import asyncio
import hashlib
import statistics
import subprocess
import sys
import time

import grpc
from served import TIMEOUT_S, Server, api, backup_pb2, backup_service_pb2_grpc, work

CALLS_MAX = 2
NOISE = 10 * CALLS_MAX
BACKUPS = 1000
ROUND_S = 3
ROUNDS = 5
RATIO_MAX = 2


def as_caller(token):
    return [("authorization", f"Bearer {token}")]


async def noise(address):
    """Lists and creates on and on, and comes back at once when refused, as nobody should."""
    async def one(stub, counts):
        listing = api.ListBackupsRequest(project_id="loud", limit=100)
        creating = api.CreateBackupRequest(backup=backup("loud", "again"))
        while True:
            try:
                await stub.ListBackups(listing, metadata=as_caller("loud"), timeout=TIMEOUT_S)
                await stub.CreateBackup(creating, metadata=as_caller("loud"), timeout=TIMEOUT_S)
                counts["OK"] = counts.get("OK", 0) + 1
            except grpc.aio.AioRpcError as error:
                counts[error.code().name] = counts.get(error.code().name, 0) + 1

    channels = [grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(8)]
    stubs = [backup_service_pb2_grpc.BackupServiceStub(channel) for channel in channels]
    counts = {}
    tasks = [asyncio.ensure_future(one(stubs[n % len(stubs)], counts)) for n in range(NOISE)]
    await asyncio.sleep(ROUND_S + 1)
    for task in tasks:
        task.cancel()
    print(counts)


def backup(project, name):
    metadata = backup_pb2.BackupMetadata(backup_name=name, container="c", hostname="h", path_to_backup="/p" * 500)
    return backup_pb2.Backup(project_id=project, backup_metadata=metadata)


def fill(stub, project):
    for number in range(BACKUPS):
        request = api.CreateBackupRequest(backup=backup(project, f"b{number}"))
        stub.CreateBackup(request, metadata=as_caller(project), timeout=TIMEOUT_S)


def p99_s(stub):
    """What a quiet caller waits for."""
    took = []
    end = time.monotonic() + ROUND_S
    request = api.ListBackupsRequest(project_id="quiet", limit=10)
    while time.monotonic() < end:
        start = time.monotonic()
        stub.ListBackups(request, metadata=as_caller("quiet"), timeout=TIMEOUT_S)
        took.append(time.monotonic() - start)
        time.sleep(0.002)
    took.sort()
    return took[len(took) * 99 // 100]


def beside(address, stub):
    """What it waits for while there is noise at a server, and how that was answered."""
    noisy = subprocess.Popen([sys.executable, __file__, sys.argv[1], address], stdout=subprocess.PIPE, text=True)
    try:
        # It has begun.
        time.sleep(0.5)
        waited = p99_s(stub)
        return waited, noisy.communicate(timeout=TIMEOUT_S)[0].strip()
    finally:
        noisy.kill()


def main():
    if len(sys.argv) > 2:
        asyncio.run(noise(sys.argv[2]))
        return
    servers = []
    try:
        tokens = work / "tokens.toml"
        tokens.touch(0o600)
        for project in ("quiet", "loud"):
            with tokens.open("a") as file:
                sha256 = hashlib.sha256(project.encode()).hexdigest()
                file.write(f'[[token]]\nsha256 = "{sha256}"\nuser_id = "{project}"\nprojects = ["{project}"]\nrole = "member"\n')
        arguments = ["--tokens", str(tokens), "--calls-per-caller-max", str(CALLS_MAX)]
        for name in ("shared", "other"):
            servers.append(Server(work / name, arguments=arguments))
        shared, other = servers
        quiet = shared.stub()
        for project in ("quiet", "loud"):
            fill(quiet, project)
        fill(other.stub(), "loud")
        at_other, at_shared, ratios = [], [], []
        for _ in range(ROUNDS):
            at_other.append(beside(other.address, quiet)[0])
            waited, answers = beside(shared.address, quiet)
            at_shared.append(waited)
            ratios.append(waited / at_other[-1])
        figures = (
            f"p99 {statistics.median(at_other) * 1000:.1f} ms beside the noise, {statistics.median(at_shared) * 1000:.1f} ms sharing a server with it: "
            f"{statistics.median(ratios):.2f} times; the noise was answered {answers}"
        )
        assert "RESOURCE_EXHAUSTED" in answers, figures
        assert statistics.median(ratios) <= RATIO_MAX, figures
        for server in servers:
            code, said = server.terminate()
            assert code == 0 and "panic" not in said, said
        print(f"ok  {NOISE} callers of a project that may have {CALLS_MAX}: {figures}")
    finally:
        for server in servers:
            if server.process.poll() is None:
                server.process.kill()
        subprocess.run(["rm", "-rf", work])


if __name__ == "__main__":
    sys.exit(main())
