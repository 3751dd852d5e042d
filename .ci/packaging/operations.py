"""docs/operations.md, command by command, with the package as it is built: python operations.py PATH_TO_DEB

As root, on Debian: it installs the package, and purges it. Without a running systemd the `systemctl` beside this file does
what the units say.
"""

import glob
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
TIMEOUT_S = 300
LEFT = ["/etc/icebox", "/usr/bin/icebox", "/usr/lib/icebox", "/lib/systemd/system/icebox.service", "/usr/share/man/man1/icebox.1.gz"]


def commands(document):
    for block in re.findall(r"^```console\n(.*?)^```", document, re.MULTILINE | re.DOTALL):
        yield from re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]


def clean(directory):
    subprocess.run([HERE / "systemctl", "stop", "icebox"], check=False)
    if shutil.which("dpkg") and pathlib.Path("/var/lib/dpkg/info/icebox.list").exists():
        subprocess.run(["dpkg", "--purge", "icebox"], check=False, stdout=subprocess.DEVNULL)
    # Only files of this run are removed: it refuses to begin if there is a catalog.
    for path in ["/var/lib/icebox", "/etc/icebox", "/run/icebox", "/run/icebox-test", *glob.glob("/tmp/drill.*")]:
        shutil.rmtree(path, ignore_errors=True) if os.path.isdir(path) else pathlib.Path(path).unlink(missing_ok=True)
    for token in ["icebox", "alice", "node1", "bob"]:
        (pathlib.Path.home() / f"{token}.token").unlink(missing_ok=True)
    subprocess.run(["deluser", "--system", "--quiet", "icebox"], check=False, stderr=subprocess.DEVNULL)
    shutil.rmtree(directory)


def main():
    assert not os.path.exists("/var/lib/icebox"), "there is a catalog on this machine: not here"
    directory = tempfile.mkdtemp()
    try:
        shutil.copy(sys.argv[1], directory)
        script = "set -e\n"
        for command in commands((REPOSITORY / "docs/operations.md").read_text()):
            line = command.splitlines()[0][:100]
            script += f"{command}\necho {shlex_quote('ok  ' + line)}\n"
        # The tools of this shell, with only the icebox of the package.
        path = f"{HERE}:/usr/sbin:/usr/bin:/sbin:/bin"
        done = subprocess.run(["bash", "-c", script], cwd=directory, env={"PATH": path, "HOME": str(pathlib.Path.home())}, timeout=TIMEOUT_S)
        assert done.returncode == 0, "a command of docs/operations.md has failed"
        left = [path for path in LEFT if os.path.exists(path) and path != "/etc/icebox"]
        assert not left, f"the package has left {left}"
        assert oct(os.stat("/var/lib/icebox").st_mode & 0o777) == "0o700"
    finally:
        clean(directory)


def shlex_quote(text):
    return "'" + text.replace("'", "'\\''") + "'"


if __name__ == "__main__":
    sys.exit(main())
