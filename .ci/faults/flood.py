"""Callers that nobody wants, by the thousand: python flood.py PATH_TO_ICEBOX

Where h2load is on PATH, it asks for as many lists as 100 connections of 100 streams can, and reads them, all the while.
2,300 connections to one server: some say nothing, some begin and say no more, some send garbage, some ask for lists and do not
read them, some send half a request on each of a hundred streams, some reset what they open as fast as they can, and some do the like
over HTTP/1.1. Meanwhile a caller that
behaves is answered, the server's memory stays within its cache and 256 MiB, and when they have gone it is as it was before.
"""

import asyncio
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
import urllib.request

import grpc
import h2.config
import h2.connection
import h2.exceptions
from served import TIMEOUT_S, Server, api, backup_pb2, work

BACKUPS = 2000
CACHE_MIB = 16
OVERHEAD_MIB = 256
IDLE_S = 4
FLOOD_S = 20
H2LOAD_CONNECTIONS = 100
P99_MAX_S = 0.25
# Kinds of callers, and how many connections each has.
KINDS = {"silent": 500, "begun": 300, "garbage": 400, "unread": 300, "half": 300, "resetting": 200}
# The same over HTTP/1.1, by what they send.
HTTP_KINDS = {
    b"": 50,
    b"GET /v2/p/backups HTTP/1.1\r\nHost: x\r\nX-": 50,
    b"POST /v2/p/backups HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n{": 50,
    b"POST /v2/p/backups HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n": 50,
    b"GET /v2/p/backups?limit=100000 HTTP/1.1\r\nHost: x\r\n\r\n" * 50: 100,
}


def files(server):
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def p99_s(stub, seconds):
    took = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.monotonic()
        stub.ListBackups(api.ListBackupsRequest(project_id="p", limit=10), timeout=TIMEOUT_S)
        took.append(time.monotonic() - start)
        time.sleep(0.002)
    took.sort()
    return took[len(took) * 99 // 100], len(took)


def message(request):
    data = request.SerializeToString()
    return b"\0" + len(data).to_bytes(4, "big") + data


def ask(connection, body, end):
    stream = connection.get_next_available_stream_id()
    headers = [
        (":method", "POST"), (":scheme", "http"), (":authority", "x"),
        (":path", "/freezer.v2.BackupService/ListBackups"), ("content-type", "application/grpc"), ("te", "trailers"),
    ]
    connection.send_headers(stream, headers)
    if body is not None:
        connection.send_data(stream, body, end_stream=end)
    return stream


async def bother(kind, host, port):
    """Comes back whenever it is thrown out. A kind of bytes is what is said over HTTP/1.1, without reading what that is answered."""
    whole = message(api.ListBackupsRequest(project_id="p", limit=1000))
    while True:
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(0.2)
            continue
        try:
            if isinstance(kind, bytes):
                writer.write(kind)
                await writer.drain()
                await asyncio.sleep(FLOOD_S)
                continue
            if kind == "garbage":
                writer.write(os.urandom(4096))
            if kind in ("silent", "garbage"):
                await reader.read()
                continue
            connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
            connection.initiate_connection()
            for _ in range(0 if kind == "begun" else 100):
                if kind == "unread":
                    ask(connection, whole, True)
                elif kind == "half":
                    ask(connection, whole[:7], False)
                else:
                    connection.reset_stream(ask(connection, None, False))
            writer.write(connection.data_to_send())
            await writer.drain()
            if kind == "resetting":
                await asyncio.sleep(0.1)
                continue
            # It answers nothing, not even pings, and reads no more than the system does for it.
            await asyncio.sleep(FLOOD_S)
        except (OSError, h2.exceptions.ProtocolError):
            pass
        finally:
            writer.close()
            await asyncio.sleep(0.05)


async def flood(address, http_address):
    host, port = address.rsplit(":", 1)
    callers = [bother(kind, host, int(port)) for kind, count in KINDS.items() for _ in range(count)]
    host, port = http_address.rsplit(":", 1)
    callers += [bother(said, host, int(port)) for said, count in HTTP_KINDS.items() for _ in range(count)]
    await asyncio.wait([asyncio.ensure_future(caller) for caller in callers], timeout=FLOOD_S)


def start_h2load(address):
    """Somebody who takes all that is there, by the rules."""
    if not shutil.which("h2load"):
        return None
    body = work / "list"
    body.write_bytes(message(api.ListBackupsRequest(project_id="p", limit=100)))
    headers = [argument for header in ("content-type: application/grpc", "te: trailers") for argument in ("-H", header)]
    asks = [*headers, "-d", str(body), f"http://{address}/freezer.v2.BackupService/ListBackups"]
    command = ["h2load", "-t", "1", "-c", str(H2LOAD_CONNECTIONS), "-m", "100", "-D", str(FLOOD_S), *asks]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def answered(h2load):
    """How many of its lists were answered, of how many that it asked for."""
    said, _ = h2load.communicate(timeout=FLOOD_S + TIMEOUT_S)
    counts = re.search(r"requests: (\d+) total.* (\d+) succeeded", said)
    assert counts, said
    return int(counts[2]), int(counts[1])


def main():
    if len(sys.argv) > 2:
        asyncio.run(flood(*sys.argv[2:]))
        # Not one of them is worth an orderly end.
        os._exit(0)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    server = flooding = h2load = None
    try:
        server = Server(work / "store", arguments=["--stall-timeout-ms", "5000", "--http", "127.0.0.1:0"])
        http_address = json.loads(server.process.stderr.readline())["fields"]["address"]
        stub = server.stub()
        for number in range(BACKUPS):
            metadata = backup_pb2.BackupMetadata(
                backup_name=f"b{number}", container="c", hostname="h", path_to_backup="/p" * 500
            )
            stub.CreateBackup(api.CreateBackupRequest(backup=backup_pb2.Backup(project_id="p", backup_metadata=metadata)))
        idle, _ = p99_s(stub, IDLE_S)
        files_before = files(server)
        flooding = subprocess.Popen([sys.executable, __file__, sys.argv[1], server.address, http_address], stdout=subprocess.DEVNULL)
        h2load = start_h2load(server.address)
        under_flood, calls = p99_s(stub, FLOOD_S)
        flooding.wait(timeout=TIMEOUT_S)
        peak = server.peak_mib()
        figures = f"p99 {idle * 1000:.1f} ms alone, {under_flood * 1000:.1f} of {calls} calls under flood, {peak} MiB at the most"
        if h2load:
            lists, asked = answered(h2load)
            figures += f", {lists} of {asked} lists for h2load"
            assert lists > 0, figures
        assert under_flood < max(P99_MAX_S, 5 * idle), figures
        assert peak <= CACHE_MIB + OVERHEAD_MIB, figures
        deadline = time.monotonic() + 60
        while files(server) > files_before + 5 and time.monotonic() < deadline:
            time.sleep(0.5)
        assert files(server) <= files_before + 5, f"{files(server)} files are open, {files_before} before"
        # A caller that comes now is answered.
        with urllib.request.urlopen(f"http://{http_address}/v2/p/backups", timeout=TIMEOUT_S) as answer:
            assert len(json.load(answer)["backups"]) == 100
        assert len(server.stub().ListBackups(api.ListBackupsRequest(project_id="p"), timeout=TIMEOUT_S).backups) == 100
        code, said = server.terminate()
        assert code == 0 and "panic" not in said, said
        print(f"ok  {sum(KINDS.values()) + sum(HTTP_KINDS.values())} connections that nobody wants: {figures}")
    except grpc.RpcError as error:
        raise AssertionError(f"a caller that behaves was refused: {error.code()} {error.details()}") from error
    finally:
        for process in (flooding, h2load):
            if process and process.poll() is None:
                process.kill()
        if server and server.process.poll() is None:
            server.process.kill()
        subprocess.run(["rm", "-rf", work])


if __name__ == "__main__":
    sys.exit(main())
