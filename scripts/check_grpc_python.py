#!/usr/bin/env python3
"""Submits a job file and watches it with nothing but stock gRPC tools: proto/ is the whole contract.

Needs: pip install grpcio grpcio-tools googleapis-common-protos grpcio-status
Use:   check_grpc_python.py HOST:PORT [JOB.toml]

Without a job file a small one is made up, for `cargo run -p rekindle-coordinator --example scripted_cluster`. Paths in a job
file must be absolute. Ends with status 0 when the job succeeded and everything that was checked on the way was right.
"""

import importlib
import pathlib
import sys
import tempfile
import uuid

import grpc
import grpc_tools
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parent.parent / "proto"
JOB = """
[job]
name = "from-python"
output = "{output}"
[model]
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
[data]
train = ["{data}"]
seq_len = 32
[training]
steps = 20
global_batch = 8
micro_batch = 2
[optimizer]
lr = 3e-4
[parallelism]
pipeline = 2
"""


def generate(folder):
    """Generates the Python modules of rekindle.v1 into `folder` and imports the two this needs."""
    files = sorted(str(path) for path in PROTO.glob("rekindle/v1/*.proto"))
    # Timestamp and its like come with grpcio-tools.
    known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    out = [f"--python_out={folder}", f"--grpc_python_out={folder}"]
    arguments = ["protoc", f"-I{PROTO}", f"-I{known}", *out, *files]
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed")
    sys.path.insert(0, folder)
    names = ["job_pb2", "job_service_pb2", "job_service_pb2_grpc", "telemetry_service_pb2", "telemetry_service_pb2_grpc"]
    return [importlib.import_module(f"rekindle.v1.{name}") for name in names]


def field_violations(error):
    """The fields a refused request names."""
    for detail in rpc_status.from_call(error).details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            return [violation.field for violation in bad.field_violations]
    return []


def main():
    address = sys.argv[1]
    folder = tempfile.mkdtemp(prefix="rekindle-python-")
    job, service, service_grpc, telemetry, telemetry_grpc = generate(folder)
    if len(sys.argv) > 2:
        text = pathlib.Path(sys.argv[2]).read_text()
    else:
        text = JOB.format(output=f"{folder}/run", data=__file__)
    with grpc.insecure_channel(address) as channel:
        jobs = service_grpc.JobServiceStub(channel)
        try:
            wrong = text.replace("micro_batch", "micro_bach")
            jobs.SubmitJob(service.SubmitJobRequest(spec=job.JobSpec(toml=wrong)), timeout=60)
            sys.exit("an unknown key was taken")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
            assert field_violations(error) == ["training.micro_bach"], field_violations(error)
        request = service.SubmitJobRequest(request_id=str(uuid.uuid4()), spec=job.JobSpec(toml=text))
        submitted = jobs.SubmitJob(request, timeout=60).job
        assert jobs.SubmitJob(request, timeout=60).job.job_id == submitted.job_id, "submitted twice"
        print(f"submitted {submitted.job_id}")
        state, last = submitted.state, 0
        for message in jobs.WatchJob(service.WatchJobRequest(job_id=submitted.job_id), timeout=600):
            update = message.WhichOneof("update")
            if update == "step":
                assert message.step.step > last, "steps come in order"
                last = message.step.step
                print(f"step {last} loss {message.step.loss:.4f}")
            else:
                state = getattr(message, update).state
                print(f"{update} {job.JobState.Name(state)}")
        stub = telemetry_grpc.TelemetryServiceStub(channel)
        request = telemetry.StreamMetricsRequest(job_id=submitted.job_id)
        steps = [step.step for part in stub.StreamMetrics(request, timeout=60) for step in part.steps]
        assert steps == list(range(1, submitted.total_steps + 1)), steps
    if state != job.JOB_STATE_SUCCEEDED:
        sys.exit(f"the job ended as {job.JobState.Name(state)}")
    print("ok")


if __name__ == "__main__":
    main()
