"""The program in the README of perdure-hosting runs and prints what it says."""

from __future__ import annotations

import re
import subprocess
import sys

from .pages import ROOT


def test_the_program_in_the_readme_prints_what_it_says():
    text = (ROOT / "plugins" / "hosting" / "README.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (said,) = re.findall(r"print\(.*\)  # (.*)", program)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == said
