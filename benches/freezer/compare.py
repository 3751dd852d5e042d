"""Freezer's own API beside Icebox, with the same requests in the same run: python3 benches/freezer/compare.py [DIRECTORY]

DIRECTORY keeps what is installed from PyPI.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import original

REPOSITORY = original.HERE.parents[1]
BENCH_TIMEOUT_S = 1800

with tempfile.TemporaryDirectory() as scratch:
    directory = pathlib.Path(scratch)
    programs = original.installed(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else directory / "venv")
    with original.running(programs, directory) as at:
        bench = ["cargo", "bench", "--quiet", "--bench", "freezer"]
        subprocess.run(bench, check=True, cwd=REPOSITORY, env=os.environ | {"FREEZER_API": at}, timeout=BENCH_TIMEOUT_S)
