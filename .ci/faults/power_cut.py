"""Power cuts on a real file system: python power_cut.py PATH_TO_ICEBOX [ROUNDS]

As root, on Linux. The store is on ext4 in a loop device, under concurrent creates, updates and deletes; then the file system
is shut down under it without flushing its log, which is what a power cut leaves, the server is killed, the file system
mounted again and the server started: nothing that was acknowledged may be missing or outdated. In most rounds it is cut while the
store's file is written anew, or right after. The control runs the server on syncs that do nothing, and must lose something.
"""

import fcntl
import os
import random
import struct
import subprocess
import sys
import time

from served import REPOSITORY, TIMEOUT_S, Ledger, Server, make_ext4, start_writers, work, wrong_after_a_restart

ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else (500 if "ICEBOX_LONG" in os.environ else 20)
CONTROL_ROUNDS = 3
# The file is written anew once the journal has half the size of the records.
REWRITING = ["--rewrite-floor-mib", "0"]
# EXT4_IOC_SHUTDOWN, with EXT4_GOING_FLAGS_NOLOGFLUSH.
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2


class Machine:
    """A file system that the power can be taken from."""

    def __init__(self):
        self.image = work / "image"
        self.mountpoint = work / "disk"
        self.mountpoint.mkdir()
        make_ext4(self.image, 1 << 10)
        try:
            self.mount()
        except subprocess.CalledProcessError:
            print("SKIPPED: power_cut.py, since this machine lets nobody mount a loop device")
            sys.exit(0)

    def mount(self):
        subprocess.run(["mount", "-o", "loop", self.image, self.mountpoint], check=True)

    def unmount(self):
        subprocess.run(["umount", self.mountpoint], check=True)

    def cut(self):
        directory = os.open(self.mountpoint, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(directory)


def one_round(machine, store, ledger, delay_s, callers, preload=None, awaited=None):
    """Writes, cuts the power after the delay, which begins once `awaited` is there, and says what is wrong afterwards."""
    server = Server(store, preload, arguments=REWRITING)
    threads = start_writers(server, ledger, callers)
    if awaited:
        deadline = time.monotonic() + TIMEOUT_S
        while not awaited.exists():
            assert time.monotonic() < deadline, "the file is not written anew"
            time.sleep(0.0005)
    time.sleep(delay_s)
    ledger.begin_cut()
    machine.cut()
    server.kill()
    for thread in threads:
        thread.join(TIMEOUT_S)
    machine.unmount()
    machine.mount()
    return wrong_after_a_restart(store, ledger)


def main():
    machine = Machine()
    try:
        ledger = Ledger()
        for number in range(ROUNDS):
            if number % 4 == 3:
                # A store that is brand-new, cut within its first moments.
                fresh = Ledger()
                store = machine.mountpoint / f"fresh-{number}"
                wrong = one_round(machine, store, fresh, random.uniform(0.005, 0.05), 16)
                for path in machine.mountpoint.glob("fresh-*"):
                    subprocess.run(["rm", "-rf", path], check=True)
            else:
                store = machine.mountpoint / "store"
                callers = random.choice([1, 8, 64])
                new = machine.mountpoint / "store.new"
                wrong = one_round(machine, store, ledger, random.uniform(0, 0.05), callers, awaited=new)
            assert not wrong, f"round {number}: {len(wrong)} wrong, such as {wrong[:3]}"
        written = len(ledger.known)
        assert written > 100, f"only {written} writes: this has tested nothing"
        print(f"ok  {written} backups acknowledged in {ROUNDS} power cuts: none missing, none outdated")

        preload = work / "no_sync.so"
        source = REPOSITORY / ".ci/faults/no_sync.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", preload, source], check=True)
        for number in range(CONTROL_ROUNDS):
            store = machine.mountpoint / f"control-{number}"
            wrong = one_round(machine, store, Ledger(), 0.4, 16, preload)
            if wrong:
                print(f"ok  control: without syncs round {number} finds it: {len(wrong)} wrong")
                return
        raise AssertionError("without syncs nothing was lost: this tests nothing")
    finally:
        machine.unmount()
        subprocess.run(["rm", "-rf", work])


if __name__ == "__main__":
    main()
