"""Freezer's own API, as PyPI has it, on SQLite. Instead of Keystone, a middleware (headers.py) says who asks."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
FREEZER_API = "freezer-api==19.0.0"
START_TIMEOUT_S = 60

CONFIG = """
[DEFAULT]
bind_host = 127.0.0.1
bind_port = {port}
log_file = {directory}/freezer-api.log
[database]
connection = sqlite:///{directory}/freezer.db
[storage]
backend = sqlalchemy
driver = sqlalchemy
[paste_deploy]
config_file = {directory}/paste.ini
"""

PASTE = """
[composite:main]
use = egg:Paste#urlmap
/ = api
[pipeline:api]
pipeline = headers context backupapp
[filter:headers]
paste.filter_factory = headers:factory
[filter:context]
paste.filter_factory = freezer_api.api.common.middleware:ContextMiddleware.factory
[composite:backupapp]
paste.composite_factory = freezer_api.service:root_app_factory
/: api_versions
/v2: appv2
[app:api_versions]
paste.app_factory = freezer_api.api.versions:api_versions
[app:appv2]
paste.app_factory = freezer_api.service:freezer_appv2_factory
"""


def installed(venv):
    """Its programs, in a virtual environment that is made if it is missing."""
    if not (venv / "bin/freezer-api").exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin/pip", "install", "--quiet", FREEZER_API], check=True)
    return venv / "bin"


@contextlib.contextmanager
def running(programs, directory):
    """One that keeps what it has in a directory: where it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = directory / "freezer-api.conf"
    config.write_text(CONFIG.format(port=port, directory=directory))
    (directory / "paste.ini").write_text(PASTE)
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    with open(directory / "out.log", "w") as log:
        said = {"env": environment, "stdout": log, "stderr": log}
        subprocess.run([programs / "freezer-manage", "--config-file", config, "db", "sync"], check=True, **said)
        server = subprocess.Popen([programs / "freezer-api", "--config-file", config], **said)
    try:
        at = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers(at):
            assert server.poll() is None and time.monotonic() < deadline, (directory / "out.log").read_text()[-4000:]
            time.sleep(0.2)
        yield at
    finally:
        server.kill()
        server.wait()


def answers(at):
    try:
        with urllib.request.urlopen(f"{at}/v2/p/jobs", timeout=5):
            return True
    except OSError:
        return False
