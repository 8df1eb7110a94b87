"""Run ``perdure`` with less than this process has: ``limited.py fsize=BYTES …`` or ``limited.py honest …``.

``fsize`` bounds each file, which is what a full disk looks like from inside. ``honest`` is for root, who may
otherwise write what is read-only: the right to do so is given up for good.
"""

import ctypes
import os
import resource
import sys

PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE = 1


def limit(what: str) -> None:
    name, _, value = what.partition("=")
    if name == "fsize":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(value), int(value)))
    elif os.getuid() == 0 and ctypes.CDLL(None, use_errno=True).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    limit(sys.argv[1])
    os.execv(sys.executable, [sys.executable, "-m", "perdure_cli", *sys.argv[2:]])  # noqa: S606 - the point
