"""`decomp-ledger run` and `record(children=True)` follow the Python processes that a program starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from decomp_ledger import Ledger
from decomp_ledger.pytorch.startup import decomp_ledger_following as following

# The module that every child runs: it makes a table, and pops an op that tells which child it was.
CHILD = """
import sys

def work(name):
    import torch
    table = torch.export.default_decompositions()
    table.pop(getattr(torch.ops.aten, name).default)
    return name

def test_of_pytest():
    assert work("silu") == "silu"

if __name__ == "__main__":
    work(sys.argv[1] if len(sys.argv) > 1 else "silu")
"""
POOL = "import multiprocessing, child\nif __name__ == '__main__':\n    {}\n"
WAYS = {
    "subprocess": "import subprocess, sys; subprocess.run([sys.executable, 'child.py'], check=True)",
    "a shell": "import subprocess, sys; subprocess.run(f'{sys.executable} child.py', shell=True, check=True)",
    "python -m": "import subprocess, sys; subprocess.run([sys.executable, '-m', 'child'], check=True)",
    "a child of a child": "import subprocess, sys\n"
    "again = 'import subprocess, sys; subprocess.run([sys.executable, \"child.py\"], check=True)'\n"
    "subprocess.run([sys.executable, '-c', again], check=True)",
    "os.posix_spawn": "import os, sys\n"
    "started = os.posix_spawn(sys.executable, [sys.executable, 'child.py'], os.environ)\n"
    "assert os.waitpid(started, 0)[1] == 0",
    "os.exec": "import os, sys; os.execv(sys.executable, [sys.executable, 'child.py'])",
    "fork": POOL.format("multiprocessing.get_context('fork').Pool(1).map(child.work, ['silu'])"),
    "spawn": POOL.format("multiprocessing.get_context('spawn').Pool(1).map(child.work, ['silu'])"),
    "forkserver": POOL.format("multiprocessing.get_context('forkserver').Pool(1).map(child.work, ['silu'])"),
    "concurrent.futures": "import multiprocessing, child\nfrom concurrent.futures import ProcessPoolExecutor\n"
    "if __name__ == '__main__':\n"
    "    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:\n"
    "        print(list(pool.map(child.work, ['silu'])))\n",
}
MODULES = {
    "pytest-xdist": ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "1", "child.py"],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "child.py"],
}
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program under `decomp-ledger run`, its tables named `job`."""
    command = [str(Path(sys.executable).with_name("decomp-ledger")), "run", "--name", "job", *arguments]
    environment = {**ENVIRONMENT, **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "child.py").write_text(CHILD)
    return tmp_path


def processes_of(folder: Path) -> list[dict[str, object]]:
    """Return the environment of each event that popped `silu`; the ledger verifies."""
    with Ledger(folder / "decomp_ledger.db", read_only=True) as ledger:
        assert ledger.verify().ok
        events = [event for event in ledger.events(op="aten::silu") if event.table.startswith("job/")]
        return [ledger.environment(event.environment) for event in events]


@pytest.mark.parametrize("way", WAYS)
def test_a_child_is_recorded_however_it_is_started(way: str, folder: Path) -> None:
    (folder / "main.py").write_text(WAYS[way])
    done = run(folder, "main.py")
    assert done.returncode == 0, done.stderr
    (process,) = processes_of(folder)
    if way != "os.exec":  # which keeps the process, and so cannot say at its end what was recorded
        assert str(process["process"]).isdecimal()
        assert done.stderr == "decomp-ledger: 0 exports, 1 table -> decomp_ledger.db; see: decomp-ledger tables\n"


@pytest.mark.parametrize(("way", "fact"), [("pytest-xdist", ("worker", "gw0")), ("torchrun", ("rank", "0"))])
def test_the_workers_of_other_tools_are_recorded_by_their_names(way: str, fact: tuple[str, str], folder: Path) -> None:
    done = run(folder, *MODULES[way])
    assert done.returncode == 0, done.stderr
    (process,) = processes_of(folder)
    assert str(process["process"]).isdecimal()
    assert process[fact[0]] == fact[1]
    assert "decomp-ledger: 0 exports, 1 table -> decomp_ledger.db" in done.stderr


def test_twenty_processes_at_once_lose_nothing(folder: Path) -> None:
    (folder / "main.py").write_text(
        "import multiprocessing, torch, child\n"
        "multiprocessing.set_start_method('fork')\n"
        "children = [multiprocessing.Process(target=child.work, args=['silu']) for _ in range(20)]\n"
        "[each.start() for each in children]\n"
        "[each.join() for each in children]\n"
        "assert [each.exitcode for each in children] == [0] * 20\n"
    )
    done = run(folder, "main.py")
    assert done.returncode == 0, done.stderr
    assert "0 exports, 20 tables, 20 processes" in done.stderr
    assert len({process["process"] for process in processes_of(folder)}) == 20


def test_children_are_not_followed_with_no_children(folder: Path) -> None:
    (folder / "main.py").write_text(WAYS["subprocess"] + "; import os; print(sorted(os.environ.items()))")
    done = run(folder, "--no-children", "main.py")
    assert done.stderr == "decomp-ledger: nothing was recorded: torch was not imported\n"
    assert following.VARIABLE not in done.stdout
    assert not (folder / "decomp_ledger.db").exists()


# What is reported at the end


SUMMARIES = {
    "print('no torch')": "nothing was recorded: torch was not imported",
    "import importlib.util; importlib.util.find_spec('torch')": "nothing was recorded: torch was not imported",
    "import torch": "nothing was recorded: no table was made and nothing was exported",
    "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch'])": "nothing was recorded: "
    "no table was made and nothing was exported",
    "import child; child.work('silu')": "0 exports, 1 table -> decomp_ledger.db; see: decomp-ledger tables",
}


@pytest.mark.parametrize("program", SUMMARIES)
def test_one_line_says_at_the_end_what_was_recorded(program: str, folder: Path) -> None:
    (folder / "main.py").write_text(program)
    assert run(folder, "main.py").stderr == f"decomp-ledger: {SUMMARIES[program]}\n"
    assert run(folder, "--quiet", "main.py").stderr == ""


def test_failed_exports_are_counted(folder: Path) -> None:
    (folder / "main.py").write_text(
        "import torch\n"
        "program = torch.export.export(torch.nn.SiLU(), (torch.ones(2),))\n"
        "program.run_decompositions()\n"
        "def fail(*args): raise ValueError('not today')\n"
        "try:\n    program.run_decompositions({torch.ops.aten.silu.default: fail})\n"
        "except ValueError: pass\n"
    )
    done = run(folder, "main.py")
    assert (
        "decomp-ledger: 2 exports (1 failed), 2 tables -> decomp_ledger.db; see: decomp-ledger exports" in done.stderr
    )


MISSED = {
    "['-I', 'child.py']": "-I ignores PYTHONPATH",
    "['-Wignore', '-X', 'utf8', '-E', 'child.py']": "-E ignores PYTHONPATH",
    "['-sS', 'child.py']": "-S leaves out sitecustomize",
    "['-uIc', 'pass']": "-I ignores PYTHONPATH",
}


@pytest.mark.parametrize("arguments", MISSED)
def test_a_child_that_cannot_be_followed_is_named(arguments: str, folder: Path) -> None:
    (folder / "main.py").write_text(f"import subprocess, sys; subprocess.run([sys.executable, *{arguments}])")
    errors = run(folder, "main.py").stderr
    assert f"decomp-ledger: not recorded: {Path(sys.executable).name} -" in errors
    assert f"({MISSED[arguments]})\n" in errors


STARTS = {
    "Popen": "subprocess.Popen(args=COMMAND, executable=sys.executable).wait()",
    "asyncio": "asyncio.run(wait())",
    "spawnv": "os.spawnv(os.P_WAIT, sys.executable, COMMAND)",
    "posix_spawn": "os.waitpid(os.posix_spawn(sys.executable, COMMAND, os.environ), 0)",
    "posix_spawnp": "os.waitpid(os.posix_spawnp(sys.executable, COMMAND, os.environ), 0)",
    "execv": "os.fork() or os.execv(sys.executable, COMMAND); os.wait()",
    "execlp": "os.fork() or os.execlp(sys.executable, *COMMAND); os.wait()",
    "execve": "os.fork() or os.execve(path=sys.executable, argv=COMMAND, env=os.environ); os.wait()",
    "a child": "subprocess.run([sys.executable, '-c', f'import subprocess; subprocess.run({COMMAND})'])",
}


@pytest.mark.parametrize("start", STARTS)
def test_a_child_that_cannot_be_followed_is_named_however_it_is_started(start: str, folder: Path) -> None:
    (folder / "main.py").write_text(
        "import asyncio, os, subprocess, sys\n"
        "COMMAND = [sys.executable, '-I', '-c', 'pass']\n"
        "async def wait():\n    await (await asyncio.create_subprocess_exec(*COMMAND)).wait()\n"
        f"{STARTS[start]}\n"
    )
    errors = run(folder, "main.py").stderr
    assert errors.count(f"not recorded: {Path(sys.executable).name} -I -c pass (-I ignores PYTHONPATH)\n") == 1


def test_the_functions_that_start_programs_are_those_of_python_again_after_a_recording(folder: Path) -> None:
    (folder / "main.py").write_text(
        "import os, subprocess\n"
        "from decomp_ledger import record\n"
        "look = lambda: [subprocess.Popen._execute_child, os.execv, os.execve, os.posix_spawn, os.posix_spawnp]\n"
        "before = look()\n"
        "with record(name='a', children=True):\n"
        "    assert not set(map(id, look())) & set(map(id, before))\n"
        "    with record('b.db', name='b', children=True):\n        pass\n"
        "    assert not set(map(id, look())) & set(map(id, before))\n"
        "assert look() == before\n"
    )
    command = [sys.executable, "main.py"]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


WARNINGS = {
    "Popen": "subprocess.Popen([sys.executable, '-c', ''], text=True, stdout=subprocess.PIPE).communicate()",
    "run": "subprocess.run([sys.executable, '-c', ''], text=True, capture_output=True)",
    "check_output": "subprocess.check_output([sys.executable, '-c', ''], text=True)",
    "a line buffer": "subprocess.Popen([sys.executable, '-c', ''], bufsize=1, stdin=subprocess.PIPE).communicate()",
    "descriptors": "subprocess.run([sys.executable, '-c', ''], pass_fds=[1], close_fds=False)",
    "an import of torch": "subprocess.run([sys.executable, '-c', 'import torch'])",
}


@pytest.mark.parametrize("program", WARNINGS)
def test_a_warning_about_a_child_names_the_same_line(program: str, folder: Path) -> None:
    (folder / "main.py").write_text(f"import subprocess, sys\n{WARNINGS[program]}\n")
    # In place of torch's, which warns of the line that imports it only where it is deprecated.
    (folder / "torch.py").write_text("import warnings\n[warnings.warn(f'of {n}', stacklevel=n) for n in range(1, 6)]\n")
    settings = {"PYTHONWARNDEFAULTENCODING": "1", "PYTHONWARNINGS": "always"}
    plain = subprocess.run(
        [sys.executable, "main.py"], cwd=folder, env=ENVIRONMENT | settings, capture_output=True, text=True, check=True
    )
    recorded = run(folder, "--quiet", "main.py", **settings)
    assert "Warning" in plain.stderr or sys.version_info < (3, 11)  # 3.10 has no warning of an encoding here
    assert recorded.stderr == plain.stderr


def test_the_call_of_a_program_that_is_missing_fails_as_without_a_recording(folder: Path) -> None:
    (folder / "main.py").write_text("import subprocess; subprocess.run(['missing/python', '-I'])")
    errors = run(folder, "main.py").stderr
    assert "FileNotFoundError" in errors and "not recorded: python" not in errors


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ("{}", f"its environment has no {following.VARIABLE}"),
        ("{**os.environ, 'PYTHONPATH': 'mine'}", "PYTHONPATH was replaced"),
    ],
)
def test_a_child_of_another_environment_of_variables_is_named(env: str, why: str, folder: Path) -> None:
    (folder / "main.py").write_text(
        f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', 'pass'], env={env})"
    )
    assert f"-c pass ({why})" in run(folder, "main.py").stderr


@pytest.mark.parametrize(
    "command",
    [
        "[sys.executable, '-c', 'pass', '-I']", "[sys.executable, '-W', 'ignore', 'empty.py', '-S']",
        "[sys.executable, '-m', 'empty', '-E']", "['sh', '-c', 'exit 0', '-I']", "[sys.executable, '-u', 'empty.py']",
    ],
)  # fmt: skip
def test_options_of_the_program_itself_keep_nothing_from_following(command: str, folder: Path) -> None:
    (folder / "empty.py").write_text("")
    (folder / "main.py").write_text(f"import subprocess, sys; subprocess.run({command}, check=True)")
    assert run(folder, "main.py").stderr == "decomp-ledger: nothing was recorded: torch was not imported\n"


def test_a_python_of_another_environment_is_named_if_it_imports_torch(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "other"], check=True)
    (folder / "torch.py").write_text("")
    command = f"[{str(folder / 'other/bin/python')!r}, '-c', 'import torch']"
    (folder / "main.py").write_text(f"import subprocess; subprocess.run({command}, check=True)")
    errors = run(folder, "main.py").stderr
    assert f"not recorded: a Python of another environment, {folder / 'other'}, imported torch\n" in errors


# What a child sees of being followed

LOOK = """
import json, sys
print(json.dumps([sys.path, "sitecustomize" in sys.modules, sys.argv, [type(each).__name__ for each in sys.meta_path]]))
"""


@pytest.mark.parametrize("custom", [None, "print('mine', __name__, __file__)", "raise ValueError('mine')"])
def test_a_child_has_the_path_and_the_sitecustomize_that_it_has_unrecorded(custom: str | None, folder: Path) -> None:
    (folder / "look.py").write_text(LOOK)
    (folder / "own").mkdir()
    if custom is not None:
        (folder / "own/sitecustomize.py").write_text(custom)
    (folder / "main.py").write_text("import subprocess, sys; subprocess.run([sys.executable, 'look.py'], check=True)")
    path = os.pathsep.join(filter(None, [str(folder / "own"), os.environ.get("PYTHONPATH")]))
    variables = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {**ENVIRONMENT, **variables}
    plain = subprocess.run(
        [sys.executable, "main.py"], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    recorded = run(folder, "main.py", **variables)
    before, after = plain.stdout.splitlines(), recorded.stdout.splitlines()
    expected = json.loads(before.pop())
    assert json.loads(after.pop()) == [*expected[:3], ["_WaitForTorch", *expected[3]]]
    # The first process is decomp-ledger itself, in which Python has run it before.
    assert after == before
    assert recorded.stderr.count("ValueError: mine") == plain.stderr.count("ValueError: mine")


def test_a_recording_of_the_child_itself_stays_the_inner_one(folder: Path) -> None:
    (folder / "own.py").write_text(
        "import decomp_ledger, child\nwith decomp_ledger.record('own.db', name='own'):\n    child.work('silu')\n"
        "child.work('mish')\n"
    )
    (folder / "main.py").write_text("import subprocess, sys; subprocess.run([sys.executable, 'own.py'], check=True)")
    assert run(folder, "main.py").returncode == 0
    assert processes_of(folder) == []
    with Ledger(folder / "own.db", read_only=True) as ledger:
        assert [event.table for event in ledger.events(op="aten::silu")] == ["own/work/1"]
    with Ledger(folder / "decomp_ledger.db", read_only=True) as ledger:
        assert [event.table for event in ledger.events(op="aten::mish")] == ["job/work/1"]


def test_python_follows_children_when_asked_and_puts_the_variables_back(folder: Path) -> None:
    (folder / "main.py").write_text(
        "import os, subprocess, sys\n"
        "from decomp_ledger import record\n"
        "before = dict(os.environ)\n"
        "start = lambda: subprocess.run([sys.executable, 'child.py'], check=True)\n"
        "with record(name='job') as quiet:\n    start()\n"
        "assert dict(os.environ) == before\n"
        "with record(name='job', reason='because', children=True) as recording:\n"
        "    start()\n"
        "    with record('inner.db', name='inner', children=True):\n        start()\n"
        "    os.environ['MINE'] = '1'\n"
        "    print(recording.summary())\n"
        "assert os.environ.pop('MINE') and dict(os.environ) == before\n"
        "start()\n"
    )
    command = [sys.executable, "main.py"]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0 exports, 1 table\n"), done.stderr
    assert len(processes_of(folder)) == 1
    with Ledger(folder / "decomp_ledger.db", read_only=True) as ledger:
        assert {event.reason for event in ledger.events()} == {"because"}
    with Ledger(folder / "inner.db", read_only=True) as ledger:
        assert [event.table for event in ledger.events(op="aten::silu")] == ["inner/work/1"]
