"""The virtual environment that the clients run in."""

import subprocess
import sys
from pathlib import Path

from clients import Client

ROOT = Path(__file__).parents[2]
# Some clients need another version of what scripts/constraints.txt pins.
_TORCH = "torch==2.13.0"
_VERSION = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


class Environment:
    """A Python that has decomp_ledger, and what clients need.

    Args:
        python: its interpreter.
        installs: whether to install what is missing.
    """

    def __init__(self, python: Path, *, installs: bool) -> None:
        self.python = python
        self._installs = installs

    @classmethod
    def in_folder(cls, folder: Path) -> "Environment":
        """Return the virtual environment in a folder, which is made if it is missing."""
        python = folder / "bin" / "python"
        if not python.exists():
            print(f"making {folder}", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        made = cls(python, installs=True)
        why = made._pip("-e", str(ROOT))
        if why:
            raise RuntimeError(f"{folder}: decomp_ledger cannot be installed: {why}")
        return made

    @property
    def command(self) -> Path:
        """The command `decomp-ledger`."""
        return self.python.with_name("decomp-ledger")

    def why_not(self, client: Client) -> str:
        """Install what a client needs; return why that cannot be had, or ""."""
        if self._installs and (why := self._pip(*client.requires)):
            return why
        missing = [name for name in map(_distribution, client.requires) if not self.version(name)]
        return f"not installed: {', '.join(missing)}" if missing else ""

    def version(self, distribution: str) -> str:
        """Return the installed version of a distribution, or ""."""
        done = subprocess.run([self.python, "-c", _VERSION, distribution], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def named(self, client: Client) -> str:
        """Return the tool of a client with its version."""
        tool = _distribution(client.requires[0])
        return f"{tool} {self.version(tool)}".strip()

    def _pip(self, *what: str) -> str:
        """Install something next to our torch; return the last line of pip's errors, or ""."""
        options = ("--quiet", "--disable-pip-version-check")
        done = subprocess.run(
            [self.python, "-m", "pip", "install", *options, _TORCH, *what], capture_output=True, text=True, check=False
        )
        return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["pip failed"])[-1]


def _distribution(requirement: str) -> str:
    return requirement.partition("==")[0]
