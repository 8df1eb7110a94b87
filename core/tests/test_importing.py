"""What importing costs: nothing but the kernel, wherever it is done."""

from __future__ import annotations

import subprocess
import sys

WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import {module}
print(*sorted(name for name in sys.modules if name.startswith("perdure_")))
"""


def imported(module: str, *, without: set[str]) -> str:
    program = WITHOUT.format(names=without, module=module)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_the_fakes_are_there_without_the_tools_of_the_kits():
    assert imported("perdure.testing", without={"pytest", "hypothesis", "_pytest"}) == ""


def test_the_kernel_needs_pluggy_and_pydantic_only():
    absent = {"click", "rich", "opentelemetry", "mcp", "openai", "jsonschema", "httpx", "pytest", "yaml"}
    assert imported("perdure", without=absent) == ""
