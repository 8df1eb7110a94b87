"""The pages as what they are made of: blocks of code, each with its language and line."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: ``info`` is what stands behind the fence (``python``, ``python no-run``, ``toml`` …)."""

    info: str
    text: str
    line: int


def blocks(page: Path, info: str) -> list[Block]:
    """The blocks of a page that are marked exactly so."""
    text = page.read_text()
    return [
        Block(match[1], match[2], text.count("\n", 0, match.start(2)) + 1)
        for match in FENCE.finditer(text)
        if match[1] == info
    ]


def program(page: Path) -> str:
    """All Python of a page as one program, each line where it stands in the page."""
    lines: list[str] = []
    for block in blocks(page, "python"):
        lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
    return "\n".join([*lines, ""])


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program where nothing of the developer's settings and data is seen."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**kept, "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
