"""The package works from a checkout, from an editable install, and from a wheel in a clean environment."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Makes a ledger, which needs the migrations, and reads it again, all without torch.
USE = """
import sys
from pathlib import Path
import decomp_ledger
from decomp_ledger import Ledger, catalogs
from decomp_ledger.storage import migrations

with Ledger("l.db") as ledger:
    log = ledger.create_table("edge")
    log.preserve(["aten::linear"])
    assert ledger.verify().ok
print(Path(decomp_ledger.__file__).parent)
print(migrations._folder())
print(len(catalogs.available()), catalogs.released("2.6.0").ops["aten::elu"].default)
assert "torch" not in sys.modules
"""


def use(python: Path, folder: Path, **environment: str) -> list[str]:
    """Run USE with an interpreter, in an empty folder; return what it printed."""
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    env = {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **environment}
    done = subprocess.run([str(python), "-c", USE], cwd=work, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    tables = subprocess.run(
        [str(python), "-m", "decomp_ledger", "--ledger", "l.db", "blame"],
        cwd=work, capture_output=True, text=True, check=False, env=env,
    )  # fmt: skip
    assert "aten::linear  preserve" in tables.stdout, tables.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the dependencies that need no torch, and without this package."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    (found,) = folder.glob("lib/python*/site-packages")
    # The dependencies come from this environment, because the test is about this package, not the network.
    import attrs
    import click
    import sqlite_utils

    origins = {str(Path(module.__file__).parent.parent) for module in (attrs, click, sqlite_utils)}
    (found / "dependencies.pth").write_text("\n".join(origins) + "\n")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_a_checkout_works(clean: Path, tmp_path: Path) -> None:
    package, migrations, catalogs = use(clean, tmp_path, PYTHONPATH=str(ROOT))
    assert [str(ROOT / "decomp_ledger"), str(ROOT / "migrations"), "11 True"] == [package, migrations, catalogs]


def test_an_editable_install_works(tmp_path: Path) -> None:
    # The one that this suite runs in.
    package, migrations, _ = use(Path(sys.executable), tmp_path)
    assert [str(ROOT / "decomp_ledger"), str(ROOT / "migrations")] == [package, migrations]


def test_a_wheel_in_a_clean_environment_works(clean: Path, wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    package, migrations, catalogs = use(clean, tmp_path, PYTHONPATH=str(site))
    assert [site / "decomp_ledger", site / "decomp_ledger/_migrations"] == [Path(package), Path(migrations)]
    assert catalogs == "11 True"


def test_the_wheel_has_exactly_the_files_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert b"decomp-ledger = decomp_ledger.cli:main" in archive.read(points)
        assert b"[pytest11]\npytest_decomp_ledger = pytest_decomp_ledger" in archive.read(points)
    assert {"decomp_ledger", "pytest_decomp_ledger.py"} == {name.split("/")[0] for name in names}
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "decomp_ledger").rglob("*.py")}
    wanted |= {"decomp_ledger/py.typed"}
    wanted |= {f"decomp_ledger/_migrations/{path.name}" for path in (ROOT / "migrations").glob("*.py")}
    assert wanted <= names
