"""A shell that runs a page's commands one after the other, as a reader pastes them: what one sets, the next ones know."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.docs.pages import Command

END = "\x1e"
COMMAND_SECONDS = 120
CURL = r"""curl() { command curl --silent --show-error --max-time 60 --write-out $'%{stderr}\x1d%{http_code}\x1d' "$@"; }"""
"""A reader's curl, which also says on stderr what it was answered."""

STATUS = re.compile("\x1d(\\d{3})\x1d")


class Outcome(msgspec.Struct, frozen=True):
    """What a command came to: its exit status, stdout and stderr together, and what each curl in it was answered."""

    exit_status: int
    output: str
    answers: tuple[str, ...]


class Shell:
    """A bash that stays. `address` takes the place of http://127.0.0.1:8000 in what it runs."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self._process = process
        self.address = address

    def run(self, text: str) -> Outcome:
        """Runs one command to its end."""
        assert self._process.stdin and self._process.stdout  # noqa: PT018
        text = text.replace("http://127.0.0.1:8000", self.address)
        self._process.stdin.write(f"{{ {text}\n}} 2>&1 </dev/null; printf '{END}%d{END}\\n' $?\n")
        self._process.stdin.flush()
        lines: list[str] = []
        while (line := self._process.stdout.readline()) and not (ended := re.search(f"{END}(\\d+){END}", line)):
            lines.append(line)
        assert line and ended, f"the shell ended in: {text}"  # noqa: PT018
        output = "".join([*lines, line[: ended.start()]])
        return Outcome(int(ended[1]), STATUS.sub("", output).strip("\n"), tuple(STATUS.findall(output)))

    def hold(self, command: Command, page: str) -> None:
        """Runs a page's command and holds what comes of it against what the page says. A `…` stands for anything."""
        outcome = self.run(command.text)
        place = f"{page}:{command.line}: $ {command.text}\n{outcome.output}"
        assert outcome.exit_status == 0, f"exit status {outcome.exit_status}: {place}"
        wrong = [answer for answer in outcome.answers if not answer.startswith(command.status or "2")]
        assert not wrong, f"answered {', '.join(wrong)}: {place}"
        if command.printed:
            shown = "\n".join(line.strip() for line in command.printed)
            pattern = ".*".join(map(re.escape, shown.split("…")))
            plain = "\n".join(line.strip() for line in outcome.output.splitlines() if line.strip())
            assert re.fullmatch(pattern, plain, re.DOTALL), f"the page shows\n{shown}\nand it is {place}"


@contextmanager
def shell(directory: Path, address: str, environment: Mapping[str, str]) -> Iterator[Shell]:
    """A shell in a directory, for as long as the block runs."""
    process = subprocess.Popen(
        ["timeout", str(COMMAND_SECONDS), "bash", "--norc", "-o", "pipefail"],
        cwd=directory,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        ready = Shell(process, address)
        ready.run(CURL)
        yield ready
