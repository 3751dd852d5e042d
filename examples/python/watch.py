"""Watches a client's jobs, and goes on where it was when the connection breaks: python watch.py [SERVER [PROJECT [CLIENT]]]

What an agent does instead of polling. The client is generated as for walk.py. It ends when its standard output does.
"""

import sys
import time

import grpc
from freezer.v2 import job_service_pb2, job_service_pb2_grpc

RETRY_AFTER_S = 0.5


def changes(stub, project_id, client_id):
    """What is stored, then each change, for ever."""
    job_filter = job_service_pb2.JobFilter(client_id=client_id)
    request = job_service_pb2.WatchJobsRequest(project_id=project_id, filter=job_filter)
    while True:
        try:
            for said in stub.WatchJobs(request):
                # The revision to resume after: 0 until everything stored has arrived.
                request.after_revision = said.revision
                yield said
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.OUT_OF_RANGE:
                # The history does not go back that far: read everything again.
                request.after_revision = 0
            elif error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            time.sleep(RETRY_AFTER_S)


def main(server="127.0.0.1:50051", project_id="demo", client_id=""):
    with grpc.insecure_channel(server) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        for said in changes(stub, project_id, client_id):
            kind = said.WhichOneof("change")
            if kind == "put":
                print(f"put {said.put.job_id} {said.put.description}", flush=True)
            elif kind == "removed_job_id":
                print(f"removed {said.removed_job_id}", flush=True)
            elif kind == "synced":
                print("synced", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
