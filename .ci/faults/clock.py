"""Clocks that jump: python clock.py PATH_TO_ICEBOX

The server runs under libfaketime, whose clock is moved while it runs: before 1970, where it starts no more and says so, past
2038 and the year 9999, and back.
Whatever the clock says, calls are answered, revisions and times never go back, and nothing is lost.
"""

import glob
import subprocess
import sys

from served import TIMEOUT_S, Server, api, backup_pb2, read_all, work

LIBRARY = "/usr/lib/*/faketime/libfaketimeMT.so.1"
BEFORE_1970 = "-60y"
JUMPS = ["+0", "+10y", "-10d", BEFORE_1970, "+13y", "+8000y", "+0"]


def set_clock(clock, offset):
    # libfaketime ends a process that finds the file empty.
    new = clock.with_suffix(".new")
    new.write_text(offset)
    new.rename(clock)


def main():
    libraries = glob.glob(LIBRARY)
    if not libraries:
        print("SKIPPED: clock.py, since there is no libfaketime")
        return
    clock = work / "clock"
    set_clock(clock, JUMPS[0])
    environment = {
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    try:
        known, last_revision, last_time, last_id = set(), 0, 0, ""
        for start, jump in enumerate(JUMPS):
            if clock.read_text() == BEFORE_1970:
                server = Server(work / "store", libraries[0], environment)
                said = server.process.communicate(timeout=TIMEOUT_S)[1]
                assert server.process.returncode == 1 and "before 1970: set it" in said, said
                set_clock(clock, "+0")
            server = Server(work / "store", libraries[0], environment)
            stub = server.stub()
            assert set(read_all(stub)) == known, f"after a start at {clock.read_text()}"
            for offset in (clock.read_text(), jump):
                set_clock(clock, offset)
                metadata = backup_pb2.BackupMetadata(backup_name=f"b{start}", container="c", hostname="h")
                item = backup_pb2.Backup(project_id="p", backup_metadata=metadata)
                made = stub.CreateBackup(api.CreateBackupRequest(backup=item), timeout=TIMEOUT_S).backup
                change = backup_pb2.Backup(backup_id=made.backup_id, status="available")
                request = api.UpdateBackupRequest(project_id="p", backup=change)
                changed = stub.UpdateBackup(request, timeout=TIMEOUT_S).backup
                assert changed.create_time == made.create_time
                times = [message.ToMilliseconds() for message in (made.create_time, changed.update_time)]
                assert last_time <= times[0] <= times[1], (jump, last_time, times)
                assert last_revision < made.revision < changed.revision, jump
                known.add(made.backup_id)
                last_revision, last_time = changed.revision, times[1]
            status, said = server.terminate()
            assert status == 0 and "panicked" not in said, said
        print(f"ok  {len(known)} backups through clocks at {', '.join(JUMPS)}: in order, and all there")
    finally:
        subprocess.run(["rm", "-rf", work])


if __name__ == "__main__":
    sys.exit(main())
