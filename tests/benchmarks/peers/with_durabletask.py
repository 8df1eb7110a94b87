"""Durable Task with the in-memory sidecar that its package ships: gRPC over loopback, nothing on disk.

Server, worker and client share one process, as the package's own tests have it. ``10``, ``100``, ``1000``
orchestrations at once; the worker's pool of threads as it comes.
"""

from __future__ import annotations

import logging
import socket
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from durabletask.client import OrchestrationStatus, TaskHubGrpcClient
from durabletask.testing import create_test_backend
from durabletask.worker import TaskHubGrpcWorker
from report import STEPS, asked, measure_blocking, small

if TYPE_CHECKING:
    from collections.abc import Generator

    from durabletask.task import ActivityContext, OrchestrationContext


def step(_: ActivityContext, given: list[int]) -> dict[str, Any]:
    """One of ten."""
    return small(*given)


def steps(ctx: OrchestrationContext, run: int) -> Generator[Any, Any, int]:
    """Ten, one after the other."""
    for number in range(STEPS):
        yield ctx.call_activity(step, input=[run, number])
    return STEPS


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def main() -> None:
    """Measure."""
    logging.disable(logging.WARNING)
    task, port = asked(), free_port()
    backend = create_test_backend(port=port)
    worker = TaskHubGrpcWorker(host_address=f"127.0.0.1:{port}")
    worker.add_orchestrator(steps)
    worker.add_activity(step)
    worker.start()
    client = TaskHubGrpcClient(host_address=f"127.0.0.1:{port}")

    def wave(n: int) -> None:
        started = [client.schedule_new_orchestration(steps, input=run) for run in range(n)]
        for run in started:
            state = client.wait_for_orchestration_completion(run, timeout=300)
            assert state is not None
            assert state.runtime_status == OrchestrationStatus.COMPLETED

    try:
        measure_blocking(task, int(task.setting), wave, version=version("durabletask"))
    finally:
        worker.stop()
        backend.stop()


if __name__ == "__main__":
    main()
