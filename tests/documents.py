"""Which parts of a Markdown document are there to be run, and how they are run."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

FENCE = re.compile(
    r"(?:^<!--\s*not run:(?P<reason>.*?)-->[ \t]*\n+)?^```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```[ \t]*$",
    re.M | re.S,
)
LANGUAGES = ("console", "bash", "python")
BLOCK_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block that could be run. `reason` is why it is not; None when it is."""

    language: str
    text: str
    line: int
    reason: str | None

    @property
    def script(self) -> str:
        """What bash is given: of a console block the lines after the prompt, of others everything."""
        return "\n".join(_commands(self.text)) if self.language == "console" else self.text


def blocks(markdown: str) -> list[Block]:
    """The blocks marked console, bash or python, in order."""
    found = []
    for match in FENCE.finditer(markdown):
        if match["language"] in LANGUAGES:
            line = markdown.count("\n", 0, match.start("text"))
            reason = None if match["reason"] is None else match["reason"].strip()
            found.append(Block(match["language"], match["text"], line, reason))
    return found


def _commands(text: str) -> list[str]:
    """Lines that begin with `$ ` or `coverslip `, with their continuations; the others are shown output."""
    commands: list[str] = []
    continued = False
    for line in text.splitlines():
        if continued:
            commands.append(line)
        elif line.startswith(("$ ", "coverslip ")):
            commands.append(line.removeprefix("$ "))
        else:
            continue
        continued = line.endswith("\\")
    return commands


def run_document(path: Path, commands: Path | None = None) -> None:
    """Run all blocks of a document in order, in the current folder; Python blocks share their names.

    `commands`: a folder whose `coverslip` is used; else the one that is installed. Raises AssertionError
    naming the document and line of the block that failed.
    """
    module = ModuleType("document")
    for block in blocks(path.read_text()):
        if block.reason is not None:
            continue
        where = f"{path.name}:{block.line}"
        if block.language == "python":
            _run_python(block, where, module)
        else:
            _run_shell(block, where, commands or Path(sys.executable).parent)


def _run_shell(block: Block, where: str, commands: Path) -> None:
    script = block.script
    assert script.strip(), f"{where}: no line begins with '$ ' or 'coverslip '"
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BLOCK_SECONDS,
        check=False,
    )
    assert done.returncode == 0, (
        f"{where}: exit status {done.returncode}\n{script}\n{done.stdout}\n{done.stderr}"
    )


def _run_python(block: Block, where: str, module: ModuleType) -> None:
    if not block.text.lstrip().startswith(">>>"):
        exec(compile("\n" * block.line + block.text, where, "exec"), module.__dict__)
        return
    example = doctest.DocTestParser().get_doctest(block.text, module.__dict__, where, where, block.line)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=report.append, clear_globs=False)
    # The runner works on a copy of the names; later blocks go on with them.
    module.__dict__.update(example.globs)
    assert not report, "".join(report)
