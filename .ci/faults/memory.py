"""Memory that is bounded: python memory.py PATH_TO_ICEBOX

200,000 backups are imported into a server with a cache of 16 MiB, listed, exported, snapshotted, and its view is made anew. No
phase may take more than the cache and what `icebox serve --help` says beside it. sled counts a page against its cache only after 64
accesses in each of 256 shards, so that up to 16,384 leaves are in memory beside it.
"""

import json
import pathlib
import random
import subprocess
import sys
import time

from served import ICEBOX, TIMEOUT_S, Server, read_all, work

BACKUPS = 200_000
CACHE_MIB = 16
OVERHEAD_MIB = 256
PHASE_TIMEOUT_S = 300


def documents(path):
    dice = random.Random(7)
    with path.open("w") as file:
        for number in range(BACKUPS):
            metadata = {
                "backup_name": f"host-{dice.randrange(1 << 20):06}",
                "container": "c",
                "hostname": "h",
                "path_to_backup": "/var/lib/data/" * 60,
            }
            file.write(json.dumps({"backup_id": f"{number:032x}", "backup_metadata": metadata}) + "\n")


def peak_mib(server):
    """Since this was last asked."""
    peak = server.peak_mib()
    pathlib.Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    return peak


def run(server, *arguments):
    command = [ICEBOX, *arguments, "--server", server.address]
    subprocess.run(command, check=True, timeout=PHASE_TIMEOUT_S, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main():
    try:
        file, store = work / "backups.json", work / "store"
        documents(file)
        peaks = {}
        server = Server(store)
        peaks["idle"] = peak_mib(server)
        started = time.monotonic()
        run(server, "import", "--quiet", "--into-project", "p", str(file))
        rate = BACKUPS / (time.monotonic() - started)
        peaks["import"] = peak_mib(server)
        assert len(read_all(server.stub())) == BACKUPS
        peaks["lists"] = peak_mib(server)
        run(server, "export", "--project", "p", "--out", str(work / "exported.json"))
        peaks["export"] = peak_mib(server)
        run(server, "snapshot", "--out", str(work / "snapshot"))
        peaks["snapshot"] = peak_mib(server)
        server.kill()
        subprocess.run(["rm", "-rf", f"{store}.view"], check=True)
        server = Server(store)
        assert len(read_all(server.stub())) == BACKUPS
        peaks["view made anew"] = peak_mib(server)
        code, said = server.terminate()
        assert code == 0, said
        assert peaks.pop("idle") <= 30, peaks
        too_much = {phase: mib for phase, mib in peaks.items() if mib > CACHE_MIB + OVERHEAD_MIB}
        assert not too_much, f"MiB: {peaks}"
        print(f"ok  {BACKUPS} backups, {rate:.0f} imported a second, MiB at the most: {peaks}")
    finally:
        subprocess.run(["rm", "-rf", work])


if __name__ == "__main__":
    sys.exit(main())
