"""packaging/Containerfile, built and run as it says: python container.py

As root, on Debian, with buildah and debootstrap: it needs no daemon and no registry of images. Images made here stand in for the two
that the file builds on: Debian as its archive has it, and that with this machine's Rust. Icebox is compiled in the dev profile, on
top of the crates that this checkout's target directory has already.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RELEASE = "bookworm"
DEBIAN, RUST, ICEBOX = "localhost/debian", "localhost/rust", "localhost/icebox"
TIMEOUT_S = 600
STARTED_WITHIN_S = 30
ENDED_WITHIN_S = 20


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S).stdout.strip()


class Images:
    """Images and containers below a directory of their own."""

    def __init__(self, directory):
        self.directory = directory
        self.buildah = ["buildah", "--root", f"{directory}/root", "--runroot", f"{directory}/run", "--storage-driver", "vfs"]

    def run(self, *arguments):
        return output(*self.buildah, *arguments)

    def begin(self, *arguments, **options):
        return subprocess.Popen([*self.buildah, *arguments], stdin=subprocess.DEVNULL, text=True, **options)

    def make_bases(self):
        debian = f"{self.directory}/debian"
        output("debootstrap", "--variant=minbase", "--include=adduser,ca-certificates,gcc,libc6-dev", RELEASE, debian)
        # The archive is reached as this machine reaches it.
        shutil.rmtree(f"{debian}/etc/apt")
        shutil.copytree("/etc/apt", f"{debian}/etc/apt", symlinks=True)
        shutil.copytree("/usr/share/keyrings", f"{debian}/usr/share/keyrings", dirs_exist_ok=True)
        container = self.run("from", "scratch")
        self.run("add", container, debian, "/")
        self.run("commit", "--rm", container, DEBIAN)
        shutil.rmtree(debian)
        toolchain, cargo_home, target = places()
        settings = {
            "PATH": f"{toolchain}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "CARGO_HOME": cargo_home,
            "CARGO_TARGET_DIR": target,
            "CARGO_NET_OFFLINE": "true",
        }
        container = self.run("from", DEBIAN)
        self.run("config", *(f"--env={name}={value}" for name, value in settings.items()), container)
        self.run("commit", "--rm", container, RUST)

    def build(self):
        volumes = [f"--volume={place}:{place}" for place in places()]
        arguments = [f"--build-arg={name}" for name in [f"RUST={RUST}", f"DEBIAN={DEBIAN}", "PROFILE=dev"]]
        file = f"--file={REPOSITORY}/packaging/Containerfile"
        self.run("bud", "--isolation=chroot", "--pull=false", *volumes, *arguments, file, f"--tag={ICEBOX}", str(REPOSITORY))


def places():
    """This machine's toolchain, its crates, and what is compiled of them."""
    cargo_home = os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo")
    target = os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")
    return output("rustc", "--print", "sysroot"), str(cargo_home), str(target)


@contextlib.contextmanager
def served(images, container, address, *options):
    """Runs the image as it says, until it is told to end. Gives what runs a command in the container."""
    config = json.loads(images.run("inspect", "--type=image", ICEBOX))["OCIv1"]["config"]
    assert config["User"] == "icebox" and config["StopSignal"] == "SIGTERM" and "/var/lib/icebox" in config["Volumes"], config
    inside = ("run", "--isolation=chroot", "--user", config["User"], *options, container, "--")
    server = images.begin(*inside, *config["Entrypoint"], *config["Cmd"], stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + STARTED_WITHIN_S
        status = (*inside, "/usr/bin/icebox", "status", f"--server={address}")
        while images.begin(*status, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait(TIMEOUT_S):
            assert time.monotonic() < until, f"the server in the container does not answer at {address}"
            time.sleep(0.2)
        yield lambda *command: images.run(*inside, *command)
        # buildah passes no signal on, so that the process itself is sent it.
        os.kill(served_by(server.pid), signal.SIGTERM)
        assert server.wait(ENDED_WITHIN_S) == 0, "it did not end well"
    finally:
        left = served_by(server.pid)
        if left:
            os.kill(left, signal.SIGKILL)
        server.kill()
        server.communicate()


def check(images):
    container = images.run("from", "--pull=false", ICEBOX)
    with served(images, container, "unix:/var/lib/icebox/icebox.sock") as run:
        files = [f"/var/lib/icebox{name}" for name in ("", "/icebox.db", "/icebox.sock")]
        modes = run("stat", "--format=%a %U", *files)
        assert (run("id", "--user", "--name"), modes.split("\n")) == ("icebox", ["700 icebox", "600 icebox", "600 icebox"]), modes
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    mounted = pathlib.Path(images.directory) / "icebox.toml"
    mounted.write_text(f'listen = "{address}"\nstore = "/var/lib/icebox/icebox.db"\n')
    with served(images, container, address, f"--volume={mounted}:/etc/icebox/icebox.toml:ro") as run:
        run("/usr/bin/icebox", "jobs", "list", f"--server={address}", "--project=demo")
    print("ok  the container's image is built, serves as the user icebox, by settings of one's own too, and ends on SIGTERM")


def served_by(ancestor):
    """The process of `icebox serve` below another one."""
    parents, running = {}, []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            # The name before the fields is in parentheses; the parent is the second field.
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if (process / "cmdline").read_bytes().startswith(b"/usr/bin/icebox\0serve\0"):
                running.append(int(process.name))
        except OSError:
            continue
    for process in running:
        parent = process
        while parent not in (0, ancestor):
            parent = parents.get(parent, 0)
        if parent == ancestor:
            return process
    return None


def main():
    directory = tempfile.mkdtemp()
    images = Images(directory)
    try:
        images.make_bases()
        images.build()
        check(images)
    except subprocess.CalledProcessError as failed:
        sys.exit(f"{' '.join(failed.cmd)}\n{failed.stdout}\n{failed.stderr}")
    finally:
        subprocess.run([*images.buildah, "rm", "--all"], check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
