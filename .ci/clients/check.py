"""Icebox with the clients that people use: python check.py PATH_TO_ICEBOX

grpcurl, Python's grpcio and the `icebox` command against the built server, end to end. Each function is a promise; the first
that is broken ends the run with status 1.
"""

import atexit
import contextlib
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile

import grpc
from google.protobuf import field_mask_pb2, struct_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from grpc_tools import protoc

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SAMPLES = REPOSITORY / "tests/data"
ICEBOX = str(pathlib.Path(sys.argv[1]).resolve())
TIMEOUT_S = 30
# More pages than any walk here has: a longer walk goes around in circles.
PAGES_MAX = 2000

work = pathlib.Path(tempfile.mkdtemp())
atexit.register(lambda: subprocess.run(["rm", "-rf", str(work)]))


def generated():
    """The client that any Python program generates from `proto/`."""
    out = work / "generated"
    out.mkdir()
    protos = [str(path.relative_to(REPOSITORY / "proto")) for path in (REPOSITORY / "proto").rglob("*.proto")]
    includes = [f"-I{REPOSITORY / 'proto'}", f"-I{pathlib.Path(protoc.__file__).parent / '_proto'}"]
    assert protoc.main(["", *includes, f"--python_out={out}", f"--grpc_python_out={out}", *protos]) == 0
    sys.path.insert(0, str(out))


generated()
from freezer.v2 import backup_pb2, backup_service_pb2, backup_service_pb2_grpc  # noqa: E402
from freezer.v2 import job_service_pb2, job_service_pb2_grpc  # noqa: E402


class Server:
    """A running `icebox serve`."""

    def __init__(self, store, listen="127.0.0.1:0"):
        self.process = subprocess.Popen(
            [ICEBOX, "serve", "--listen", listen, "--store", str(store)], stderr=subprocess.PIPE, text=True
        )
        atexit.register(self.process.kill)
        self.address = json.loads(self.process.stderr.readline())["fields"]["address"]

    def channel(self):
        if self.address.startswith("unix:"):
            return grpc.insecure_channel(self.address, [("grpc.default_authority", "localhost")])
        return grpc.insecure_channel(self.address)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=TIMEOUT_S)
        assert self.process.returncode == 0, (self.process.returncode, said)
        assert "panicked" not in said, said


def run(*command, status=0, stdin=None):
    """What a command prints on standard output and error, if it ends with that status."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=REPOSITORY)
    assert done.returncode == status, f"{command}\nended with {done.returncode}, not {status}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


def grpcurl(server, method, request=None, *options, status=0):
    data = [] if request is None else ["-d", request if isinstance(request, str) else json.dumps(request)]
    # grpcurl ends with 64 plus the gRPC code.
    return run("grpcurl", "-plaintext", *options, *data, server.address, *method.split(), status=64 + status if status else 0)


def icebox(server, *arguments, **options):
    return run(ICEBOX, *arguments, "--server", server.address, **options)


@contextlib.contextmanager
def refused(code):
    """Expects a refusal, and gives its details to whoever asks for them afterwards."""
    details = {}
    try:
        yield details
    except grpc.RpcError as error:
        assert error.code() == code, error
        for detail in rpc_status.from_call(error).details:
            for kind in (error_details_pb2.BadRequest, error_details_pb2.ErrorInfo, error_details_pb2.ResourceInfo):
                if detail.Is(kind.DESCRIPTOR):
                    details[kind.__name__] = kind()
                    detail.Unpack(details[kind.__name__])
        assert details["ErrorInfo"].domain == "icebox", details
    else:
        raise AssertionError(f"was not refused with {code}")


def a_newcomer_finds_everything_with_grpcurl(server):
    services, _ = grpcurl(server, "list")
    for service in ("freezer.v2.BackupService", "freezer.v2.JobService", "grpc.health.v1.Health"):
        assert service in services.split(), services
    described, _ = grpcurl(server, "describe freezer.v2.Job")
    assert "// The job's name, 1 to 64 bytes" in described, described
    for service in ("", "freezer.v2.BackupService", "freezer.v2.JobService"):
        health, _ = grpcurl(server, "grpc.health.v1.Health/Check", {"service": service})
        assert json.loads(health) == {"status": "SERVING"}, health


def freezers_own_document_creates_a_job(server):
    sample = (SAMPLES / "job-create.json").read_text()
    created, _ = grpcurl(server, "freezer.v2.JobService/CreateJob", f'{{"job": {sample}}}')
    job = json.loads(created)["job"]
    assert job["description"] == "Test-0001" and len(job["jobId"]) == 32, job
    listed, _ = grpcurl(server, "freezer.v2.JobService/ListJobs", {"project_id": job["projectId"]})
    assert json.loads(listed)["jobs"] == [job], listed
    after, _ = grpcurl(
        server, "freezer.v2.JobService/ListJobs", {"project_id": job["projectId"], "marker": job["jobId"]}
    )
    assert "jobs" not in json.loads(after), after
    stopped, _ = grpcurl(
        server, "freezer.v2.JobService/StopJob", {"project_id": job["projectId"], "job_id": job["jobId"]}
    )
    assert json.loads(stopped)["job"]["jobSchedule"]["event"] == "stop", stopped
    abort = {"project_id": job["projectId"], "job_id": job["jobId"]}
    _, said = grpcurl(server, "freezer.v2.JobService/AbortJob", abort, status=9)
    assert "JOB_NOT_RUNNING" in said, said
    _, said = grpcurl(server, "freezer.v2.JobService/GetJob", {**abort, "project_id": "other"}, status=5)
    assert "ResourceInfo" in said, said
    # A watch goes on until the caller has had enough.
    watch = {"project_id": job["projectId"]}
    said, _ = grpcurl(server, "freezer.v2.JobService/WatchJobs", watch, "-max-time", "2", status=4)
    assert job["jobId"] in said and '"synced": true' in said, said


def an_error_names_every_field_readably(server):
    job = {
        "project_id": "demo",
        "description": "",
        "job_schedule": {"schedule_interval": "5 minuts", "schedule_end_date": "2026-02-31T00:00:00"},
    }
    _, said = grpcurl(server, "freezer.v2.JobService/CreateJob", {"job": job}, status=3)
    assert "is not recognized" not in said, said
    for word in (
        '"fieldViolations"',
        '"field":"job.description"',
        '"field":"job.job_schedule.schedule_interval"',
        '"field":"job.job_schedule.schedule_end_date"',
        '"field":"job.job_actions"',
        '"domain":"icebox"',
        '"reason":"INVALID_FIELDS"',
    ):
        assert word in said, (word, said)


def backup(name, number, **fields):
    metadata = backup_pb2.BackupMetadata(backup_name=name, container="c", hostname="h", **fields)
    return backup_pb2.Backup(backup_id=f"{number:032x}", project_id="walk", backup_metadata=metadata)


def create(stub, item):
    return stub.CreateBackup(backup_service_pb2.CreateBackupRequest(backup=item), timeout=TIMEOUT_S).backup


def walk(stub, limit, by_marker, between=lambda: None):
    """(name, id) of everything in the project, page by page."""
    seen, marker, token = [], "", ""
    for _ in range(PAGES_MAX):
        request = backup_service_pb2.ListBackupsRequest(
            project_id="walk", limit=limit, marker=marker, page_token=token
        )
        page = stub.ListBackups(request, timeout=TIMEOUT_S)
        assert len(page.backups) <= limit
        seen += [(item.backup_metadata.backup_name, item.backup_id) for item in page.backups]
        if not page.next_page_token:
            return seen
        marker, token = (seen[-1][1], "") if by_marker else ("", page.next_page_token)
        between()
    raise AssertionError("the walk does not end")


def lists_are_what_a_sorted_model_says(server):
    stub = backup_service_pb2_grpc.BackupServiceStub(server.channel())
    choose = random.Random(7)
    names = ["a", "a b", "ab", "z", "é", "日本", "👻", "a\u0301", "~"]
    model = set()
    for number in range(1, 301):
        name = choose.choice(names) + choose.choice(["", "-1", "-2"])
        create(stub, backup(name, number))
        model.add((name, f"{number:032x}"))
    in_order = sorted(model, key=lambda key: (key[0].encode(), key[1]))
    for limit in (1, 7, 300, 1000):
        for by_marker in (True, False):
            assert walk(stub, limit, by_marker) == in_order, (limit, by_marker)
    # Writes between the pages change nothing for items that stay.
    touched = {f"{number:032x}" for number in range(1, 301, 3)}
    victims = sorted(touched)

    def between():
        if victims:
            request = backup_service_pb2.DeleteBackupRequest(project_id="walk", backup_id=victims.pop())
            stub.DeleteBackup(request, timeout=TIMEOUT_S)
            create(stub, backup("a new one", 1000 + len(victims)))

    seen = walk(stub, 7, False, between)
    stays = [key for key in in_order if key[1] not in touched]
    assert [key for key in seen if key in set(stays)] == stays


def writes_keep_their_promises_to_python(server):
    stub = backup_service_pb2_grpc.BackupServiceStub(server.channel())
    first = create(stub, backup("once", 0xABC))
    assert create(stub, backup("once", 0xABC)) == first, "the same create again returns what is stored"
    with refused(grpc.StatusCode.ALREADY_EXISTS) as details:
        create(stub, backup("twice", 0xABC))
    assert details["ResourceInfo"].resource_name == first.backup_id
    change = backup_pb2.Backup(backup_id=first.backup_id, status="error")
    mask = field_mask_pb2.FieldMask(paths=["status"])
    update = backup_service_pb2.UpdateBackupRequest(
        project_id="walk", backup=change, update_mask=mask, expected_revision=first.revision
    )
    updated = stub.UpdateBackup(update, timeout=TIMEOUT_S).backup
    assert updated.status == "error" and updated.revision > first.revision
    with refused(grpc.StatusCode.ABORTED) as details:
        stub.UpdateBackup(update, timeout=TIMEOUT_S)
    assert details["ErrorInfo"].reason == "STALE_REVISION"
    update.update_mask.paths[:] = ["statsu", "revision"]
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as details:
        stub.UpdateBackup(update, timeout=TIMEOUT_S)
    assert len(details["BadRequest"].field_violations) == 2, details


def every_page_fits_in_a_clients_default_limit(server):
    stub = backup_service_pb2_grpc.BackupServiceStub(server.channel())
    extra = struct_pb2.Struct()
    extra["note"] = "x" * 14000
    before = {key[1] for key in walk(stub, 1000, False)}
    for number in range(5000, 5400):
        create(stub, backup("large", number, extra=extra))
    after = [key[1] for key in walk(stub, 1000, False)]
    assert len(after) == len(set(after)) == len(before) + 400


def other_standard_clients_are_served(server):
    channel = server.channel()
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    ask = reflection_pb2.ServerReflectionRequest(file_containing_symbol="google.rpc.BadRequest")
    answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask]), timeout=TIMEOUT_S)
    assert next(answers).HasField("file_descriptor_response")


def freezers_documents_go_through_and_back(server, directory):
    files = [str(SAMPLES / name) for name in ("backups-list.json", "jobs-list.json", "job-create.json")]
    said, _ = icebox(server, "import", "--into-project", "demo", *files)
    assert "imported 2 backups and 2 jobs; 0 updated, 0 unchanged, 0 refused" in said, said
    exported, _ = icebox(server, "export", "--project", "-")
    revision = revision_of(server)
    icebox(server, "import", "--into-project", "demo", *files)
    icebox(server, "import", "-", stdin=exported)
    assert revision_of(server) == revision, "importing again changes nothing"
    assert icebox(server, "export", "--project", "-")[0] == exported
    other = Server(directory / "other")
    icebox(other, "import", "-", stdin=exported)
    assert icebox(other, "export", "--project", "-")[0] == exported, "another catalog exports the same"
    other.stop()


def revision_of(server):
    stub = job_service_pb2_grpc.JobServiceStub(server.channel())
    return stub.ListJobs(job_service_pb2.ListJobsRequest(project_id="-"), timeout=TIMEOUT_S).revision


def the_command_says_what_is_wrong(server, directory):
    truncated = directory / "truncated.json"
    truncated.write_text((SAMPLES / "backups-list.json").read_text()[:900])
    (directory / "thesis.tex").write_text("\\documentclass{article}")
    for name in ("truncated.json", "thesis.tex", "missing.json"):
        _, said = icebox(server, "import", "--project", "bad", str(directory / name), status=1)
        assert name in said and "panicked" not in said, said
    _, said = icebox(server, "backups", "create", "--project", "demo", "-", stdin='{"backup_name": "x"}', status=1)
    assert "container is required" in said and "hostname is required" in said, said
    run(ICEBOX, "jobs", "lst", status=2)
    run(ICEBOX, "serve", "--listen", "0.0.0.0:0", "--store", str(directory / "public"), status=2)
    _, said = run(ICEBOX, "jobs", "list", "--project", "demo", "--server", "127.0.0.1:1", status=1)
    assert len(said.strip().splitlines()) == 1 and "icebox serve" in said, said
    for output in ("table", "json", "jsonl"):
        listed, _ = icebox(server, "backups", "list", "--project", "walk", "--output", output)
        assert "once" in listed, listed


def a_restarted_server_lists_the_same(server, store):
    exported, _ = icebox(server, "export", "--project", "-")
    server.stop()
    again = Server(store)
    assert icebox(again, "export", "--project", "-")[0] == exported
    again.stop()


def a_unix_socket_serves_as_well(directory):
    server = Server(directory / "local", f"unix:{directory}/icebox.sock")
    stub = backup_service_pb2_grpc.BackupServiceStub(server.channel())
    create(stub, backup("local", 1))
    assert "local" in icebox(server, "backups", "list", "--project", "walk")[0]
    server.stop()


def main():
    server = Server(work / "store")
    for check, arguments in (
        (a_newcomer_finds_everything_with_grpcurl, (server,)),
        (freezers_own_document_creates_a_job, (server,)),
        (an_error_names_every_field_readably, (server,)),
        (lists_are_what_a_sorted_model_says, (server,)),
        (writes_keep_their_promises_to_python, (server,)),
        (every_page_fits_in_a_clients_default_limit, (server,)),
        (other_standard_clients_are_served, (server,)),
        (the_command_says_what_is_wrong, (server, work)),
        (a_restarted_server_lists_the_same, (server, work / "store")),
        (a_unix_socket_serves_as_well, (work,)),
    ):
        check(*arguments)
        print("ok ", check.__name__.replace("_", " "), flush=True)
    documents = Server(work / "documents")
    freezers_documents_go_through_and_back(documents, work)
    documents.stop()
    print("ok  freezers documents go through and back")


if __name__ == "__main__":
    main()
