"""A disk that fails: python io_errors.py PATH_TO_ICEBOX

The N-th write or sync of the server fails with EIO, once or for good, for N from 1 on, while many callers write. Whatever was
acknowledged is there after a restart, what was not is whole or absent, and reads go on where the server still runs.
"""

import os
import random
import subprocess
import sys
import time

import grpc

from served import REPOSITORY, TIMEOUT_S, Ledger, Server, read_all, start_writers, work, wrong_after_a_restart

ROUNDS = 200 if "ICEBOX_LONG" in os.environ else 24
CALLERS = 8


def one_round(store, ledger, preload, environment):
    """What is wrong after a life in which the disk fails."""
    server = Server(store, preload, environment)
    threads = start_writers(server, ledger, CALLERS)
    time.sleep(0.3)
    if server.process.poll() is None:
        try:
            read_all(server.stub())
        except grpc.RpcError as error:
            # A view that fails is made anew. Until then, reads that it cannot answer are refused.
            assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS), error
    server.kill()
    for thread in threads:
        thread.join(TIMEOUT_S)
    return wrong_after_a_restart(store, ledger)


def main():
    try:
        preload = work / "fail_io.so"
        source = REPOSITORY / ".ci/faults/fail_io.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", preload, source], check=True)
        ledger = Ledger()
        for number in range(ROUNDS):
            at = number + 1 if number < ROUNDS // 2 else random.randrange(ROUNDS // 2, 2000)
            environment = {"FAIL_AT": str(at), "FAIL_FOR_GOOD": str(number % 2)}
            wrong = one_round(work / "store", ledger, preload, environment)
            assert not wrong, f"{environment}: {len(wrong)} wrong, such as {wrong[:3]}"
        written = len(ledger.known)
        assert written > 100, f"only {written} writes: this has tested nothing"
        print(f"ok  {written} backups acknowledged over {ROUNDS} failing disks: none missing, none outdated")
    finally:
        subprocess.run(["rm", "-rf", work])


if __name__ == "__main__":
    sys.exit(main())
