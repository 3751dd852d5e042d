"""The examples against a server: python examples.py PATH_TO_ICEBOX DIRECTORY_OF_RUST_EXAMPLES NODE_MODULES

The walks in Rust, Python and Node must show the same backups, all of them, and the client that retries must come through though
the server is started after it.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

from grpc_tools import protoc

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
ICEBOX, RUST, NODE_MODULES = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
# More than three pages of 100.
BACKUPS = 320
TIMEOUT_S = 60


def start(address, store):
    """A server, once it listens."""
    server = subprocess.Popen(
        [ICEBOX, "serve", "--listen", address, "--store", store],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"ICEBOX_LOG": "warn"},
    )
    json.loads(server.stderr.readline())
    return server


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def shown(*command, **environment):
    output = subprocess.run(
        command, env=os.environ | environment, timeout=TIMEOUT_S, check=True, stdout=subprocess.PIPE, text=True
    )
    return output.stdout.splitlines()


def generate_into(out):
    protos = [str(path.relative_to(REPOSITORY / "proto")) for path in (REPOSITORY / "proto").rglob("*.proto")]
    includes = [f"-I{REPOSITORY / 'proto'}", f"-I{pathlib.Path(protoc.__file__).parent / '_proto'}"]
    assert protoc.main(["", *includes, f"--python_out={out}", f"--grpc_python_out={out}", *protos]) == 0


def many_backups(file):
    """Freezer's own first backup, so many times, each under a name of its own."""
    [sample, *_] = json.loads((REPOSITORY / "tests/data/backups-list.json").read_text())["backups"]
    backups = []
    for n in range(BACKUPS):
        metadata = sample["backup_metadata"] | {"backup_name": f"backup-{n:04}"}
        backups.append(sample | {"backup_id": f"{n:032x}", "backup_metadata": metadata})
    file.write_text(json.dumps({"backups": backups}))


def walks(address, directory):
    many_backups(directory / "backups.json")
    subprocess.run(
        [ICEBOX, "import", "--server", address, "--project", "demo", "--into-project", "demo", directory / "backups.json"],
        check=True,
        timeout=TIMEOUT_S,
        stdout=subprocess.DEVNULL,
    )
    generate_into(directory)
    rust = shown(RUST / "walk", address, "demo")
    python = shown(sys.executable, REPOSITORY / "examples/python/walk.py", address, "demo", PYTHONPATH=str(directory))
    node = shown("node", REPOSITORY / "examples/node/walk.js", address, "demo", NODE_PATH=str(NODE_MODULES))
    expected = [f"{n:032x}  backup-{n:04}" for n in range(BACKUPS)]
    for name, walked in [("Rust", rust), ("Python", python), ("Node", node)]:
        assert walked == expected, f"{name} shows {len(walked)} backups: {walked[:3]} …"


def main():
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        address = free_address()
        early = subprocess.Popen([RUST / "retry", address, "demo"], stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)
        server = start(address, directory / "icebox.db")
        try:
            said, _ = early.communicate(timeout=TIMEOUT_S)
            assert early.returncode == 0 and "is stored at revision" in said, said
            walks(address, directory)
        finally:
            early.kill()
            server.terminate()
            server.communicate(timeout=30)
    print(f"ok  {BACKUPS} backups walked in Rust, Python and Node; a client that was early came through")


if __name__ == "__main__":
    main()
