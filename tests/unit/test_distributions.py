"""Which distribution a file of a library is of, by the RECORD files of a folder of libraries."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from decomp_ledger.log import distributions, provenance

INSTALLED = {
    "executorch-1.5.1": ["executorch/exir/__init__.py", "executorch/exir/program.py"],
    "PyYAML-6.0.3": ["yaml/__init__.py", "yaml/loader.py", "_yaml/__init__.py"],
    "my.backend-2.0+cpu": ["my_backend/__init__.py", "my_backend/lower.py"],
    "google_one-1.0": ["google/one/__init__.py"],
    "google_two-2.0": ["google/two/__init__.py"],
    "single-0.1": ["single.py"],
}
FILES = {
    "executorch/exir/program.py": "executorch 1.5.1",
    "yaml/loader.py": "PyYAML 6.0.3",
    "my_backend/lower.py": "my.backend 2.0+cpu",
    "google/one/__init__.py": "google_one 1.0",
    "google/two/__init__.py": "google_two 2.0",
    "single.py": "single 0.1",
    "unknown/part.py": "",
    "one/__init__.py": "",  # a part of a recorded path
    "copied.py": "",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of libraries, with one whose RECORD is missing."""
    for name, files in INSTALLED.items():
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
        (tmp_path / f"{name}.dist-info").mkdir()
        lines = "".join(f"{file},sha256=x,1\n" for file in files)
        (tmp_path / f"{name}.dist-info" / "RECORD").write_text(lines, encoding="utf-8")
    (tmp_path / "damaged-1.0.dist-info").mkdir()
    return tmp_path


@pytest.mark.parametrize(("file", "expected"), FILES.items())
def test_a_file_is_of_the_distribution_that_recorded_it(file: str, expected: str, root: Path) -> None:
    assert distributions.distribution_of(str(root / file), str(root)) == expected


@pytest.mark.parametrize(
    ("file", "asked"),
    [
        ("executorch/exir/program.py", ["executorch"]),
        ("my_backend/lower.py", ["my.backend"]),
        ("google/two/__init__.py", ["google_one", "google_two"]),
        ("single.py", ["single"]),
    ],
)
def test_the_distributions_that_bear_the_name_are_asked_first(
    file: str, asked: list[str], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    whole = Path.read_text

    def read_text(self: Path, *args: object) -> str:
        read.append(self.parent.name.partition("-")[0])
        return whole(self, *args)

    monkeypatch.setattr(Path, "read_text", read_text)
    distributions.distribution_of(str(root / file), str(root))
    assert read == asked


def test_a_call_site_names_the_libraries_that_it_went_through(monkeypatch: pytest.MonkeyPatch) -> None:
    found = provenance.call_site()
    assert found is not None and found.distribution == ""
    assert {frame.distribution for frame in found.callers if "pluggy" in frame.file} == {f"pluggy {version('pluggy')}"}
    monkeypatch.setenv("DECOMP_LEDGER_CAPTURE", "minimal")
    minimal = provenance.call_site()
    assert minimal is not None and {frame.distribution for frame in minimal.frames} == {""}
