"""Walks through all backups of a project, page by page: python walk.py [SERVER [PROJECT]]

The client is generated from the .proto files, once:

    pip install grpcio-tools
    python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. proto/freezer/v2/*.proto
"""

import sys

import grpc
from freezer.v2 import backup_service_pb2, backup_service_pb2_grpc


def backups(stub, project_id):
    """Every backup of the project, sorted by name."""
    request = backup_service_pb2.ListBackupsRequest(project_id=project_id, limit=100)
    while True:
        page = stub.ListBackups(request, timeout=10)
        yield from page.backups
        # A page may be empty without being the last: only an empty token ends a walk.
        request.page_token = page.next_page_token
        if not request.page_token:
            return


def main(server="127.0.0.1:50051", project_id="demo"):
    with grpc.insecure_channel(server) as channel:
        stub = backup_service_pb2_grpc.BackupServiceStub(channel)
        for backup in backups(stub, project_id):
            print(f"{backup.backup_id}  {backup.backup_metadata.backup_name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
