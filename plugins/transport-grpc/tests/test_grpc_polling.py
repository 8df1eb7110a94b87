"""How gRPC waits for sockets is chosen before gRPC is there, and by whoever has a choice of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from perdure_transport_grpc.polling import VARIABLE

LOOK = f"import os, perdure_transport_grpc; print(os.environ[{VARIABLE!r}])"


@pytest.mark.parametrize("own", [None, "", "tcp_frame_size_tuning"], ids=["none", "empty", "some"])
def test_a_choice_that_was_made_stays(own: str | None) -> None:
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    if own is not None:
        environment[VARIABLE] = own
    ran = subprocess.run([sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ("-event_engine_client,-event_engine_listener" if own is None else own)
    assert ran.stderr == ""
