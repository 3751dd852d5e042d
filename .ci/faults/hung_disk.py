"""A disk that hangs: python hung_disk.py PATH_TO_ICEBOX

From some write or sync on, each takes seconds. Reads are answered meanwhile, writes are answered late or refused, SIGTERM ends the
server in order, and whatever was acknowledged is there after a restart.
"""

import subprocess
import sys
import time

from served import REPOSITORY, TIMEOUT_S, Ledger, Server, read_all, start_writers, work, wrong_after_a_restart

HANG_S = 4
CALLERS = 8
HANGS_FROM = [40, 400]


def one_round(preload, store, ledger, hangs_from):
    environment = {"FAIL_AT": str(hangs_from), "FAIL_FOR_GOOD": "1", "HANG_MS": str(HANG_S * 1000)}
    server = Server(store, preload, environment)
    stub = server.stub()
    threads = start_writers(server, ledger, CALLERS)
    # By now the disk hangs. A write under way is not answered before the disk answers.
    written = -1
    while written != len(ledger.known):
        written = len(ledger.known)
        time.sleep(HANG_S / 4)
    started = time.monotonic()
    answered = 0
    while time.monotonic() - started < HANG_S / 2:
        read_all(stub)
        answered += 1
    assert answered >= 3, f"only {answered} walks were answered while the disk hung"
    server.process.terminate()
    for thread in threads:
        thread.join(TIMEOUT_S * 2)
        assert not thread.is_alive(), "a write is never answered"
    server.process.communicate(timeout=TIMEOUT_S * 4)
    assert server.process.returncode == 0, server.process.returncode
    wrong = wrong_after_a_restart(store, ledger)
    assert not wrong, f"{len(wrong)} wrong, such as {wrong[:3]}"
    return answered


def main():
    try:
        preload = work / "fail_io.so"
        source = REPOSITORY / ".ci/faults/fail_io.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", preload, source], check=True)
        walks = [one_round(preload, work / f"store-{at}", Ledger(), at) for at in HANGS_FROM]
        print(f"ok  {sum(walks)} walks answered while the disk hung: none missing, none outdated")
    finally:
        subprocess.run(["rm", "-rf", work])


if __name__ == "__main__":
    sys.exit(main())
