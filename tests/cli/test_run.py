"""`decomp-ledger run` is `python`, with a recording."""

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from decomp_ledger import Ledger

# What a program can see of how it was started.
LOOK = """
import __main__, os, sys
print(sys.argv, sys.path[0], __name__, __file__, __package__, __main__.__dict__ is globals())
print(__spec__ and __spec__.name, __cached__, {k: type(v).__name__ for k, v in sorted(globals().items())})
print([name for name in ("torch", "numpy", "sqlite_utils") if name in sys.modules])
"""

# What a program can see of its process.
PROCESS = """
import builtins, gc, locale, logging, os, signal, sys, threading, warnings
print({each.name: signal.getsignal(each) for each in signal.Signals})
print(warnings.filters, logging.root.handlers, logging.root.level)
print(sys.flags, sys.getrecursionlimit(), sys.getswitchinterval(), threading.stack_size(), gc.get_threshold())
print([type(each) for each in (sys.stdin, sys.stdout, sys.stderr)], sys.stdout.encoding, sys.stdout.line_buffering)
print(sys.excepthook is sys.__excepthook__, sys.unraisablehook is sys.__unraisablehook__, sys.getprofile())
print(sys.gettrace(), threading.enumerate() == [threading.main_thread()])
print(sorted(os.listdir("/proc/self/fd")), os.umask(0o22), os.nice(0), locale.setlocale(locale.LC_ALL), os.getcwd())
print({name: value for name, value in os.environ.items() if name not in {"_", "DECOMP_LEDGER_FOLLOW", "PYTHONPATH"}})
print(sorted(vars(builtins)), __builtins__ is builtins, sys.path[1:], len(sys.path_hooks))
"""

ENDINGS = {
    "end": "print('done')",
    "exit with a number": "import sys; sys.exit(3)",
    "exit with a text": "import sys; sys.exit('the reason')",
    "exit with nothing": "raise SystemExit",
    "exit at once": "import os, sys; print('x'); sys.stdout.flush(); os._exit(7)",
    "exception": "def f():\n    return 1 / 0\n\nf()",
    "exception from another": "try:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError('b') from e",
    "exception while handling": "try:\n    {}['a']\nexcept KeyError:\n    int('b')",
    "exception with notes": "e = ValueError('a')\ne.add_note('b') if hasattr(e, 'add_note') else None\nraise e",
    "syntax error": "print('a')\nif True print('b')",
    "own hook": "import sys\nsys.excepthook = lambda *a: print('hook', a[0].__name__, a[2].tb_lineno)\n1 / 0",
    "own hook that fails": "import sys\ndef hook(*a):\n    print(sys.exc_info())\n    {}['a']\n"
    "sys.excepthook = hook\n1 / 0",
    "own hook that exits": "import sys\nsys.excepthook = lambda *a: sys.exit(9)\n1 / 0",
    "exception without text": "class Odd(Exception):\n    def __str__(self): raise Odd\n\nraise Odd",
    "interrupted": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time; time.sleep(5)",
    "killed": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "at exit": "import atexit\natexit.register(print, 'last words')\nprint('first words')",
    "thread outlives main": "import threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(0.3), print('late'))).start()\nprint('early')",
    "broken output": "import sys\nsys.stdout.write('a')\nsys.stdout.close()",
    "no output": "import sys\nsys.stdout = None",
    "replaced output": "import sys\nclass Plain:\n    def write(self, text): sys.__stderr__.write(text)\n"
    "    def flush(self): pass\nsys.stdout = Plain()\nprint('a')",
    "interrupted without output": "import os, signal, sys\nsys.stdout = None\nos.kill(os.getpid(), signal.SIGINT)\n"
    "import time; time.sleep(5)",
    "pickles what it defines": "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)",
    "another encoding": "# -*- coding: latin-1 -*-\nprint(len('\xe9'))",
}


def both(arguments: list[str], folder: Path, **options: object) -> tuple[list[object], list[object]]:
    """Return (status, output, errors) of `python ...` and of `decomp-ledger run ...`."""
    return start([sys.executable, *arguments], folder, **options), recorded(arguments, folder, **options)


def recorded(arguments: list[str], folder: Path, **options: object) -> list[object]:
    """Return (status, output, errors) of `decomp-ledger run ...`."""
    return start(
        [str(Path(sys.executable).with_name("decomp-ledger")), "run", "--quiet", *arguments], folder, **options
    )


def start(command: list[str], folder: Path, **options: object) -> list[object]:
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False, **options)
    return [done.returncode, done.stdout.decode(), done.stderr.decode()]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_script_ends_as_under_python(ending: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(ENDINGS[ending], encoding="latin-1")
    python, ours = both(["script.py"], tmp_path)
    assert python == ours


@pytest.mark.parametrize("seed", range(6))
def test_an_odd_exception_ends_a_script_as_under_python(seed: int, tmp_path: Path) -> None:
    lines = (
        "import random, sys",
        f"sys.path.insert(0, {str(Path(__file__).parents[1] / 'support')!r})",
        "from odd_exceptions import odd_exception",
        f"raise odd_exception(random.Random({seed}))",
    )
    (tmp_path / "script.py").write_text("\n".join(lines), encoding="utf-8")
    python, ours = both(["script.py"], tmp_path)
    assert python == ours


@pytest.mark.parametrize(
    "arguments",
    [
        ["script.py"],
        ["./script.py", "a", "-b", "--json", "--help", "--", "-m"],
        ["sub/script.py", "--ledger", "x"],
        ["-m", "script", "a", "-m", "b"],
        ["-m", "package", "--name", "x"],
        ["-m", "package.inner"],
        ["sub"],
        ["program.zip", "a"],
    ],
    ids=" ".join,
)
def test_a_program_sees_what_it_would_see_under_python(arguments: list[str], tmp_path: Path) -> None:
    for name in ("script.py", "sub/script.py", "sub/__main__.py", "package/__main__.py", "package/inner.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(LOOK)
    (tmp_path / "package/__init__.py").write_text("import sys; print('package', sys.argv)")
    with zipfile.ZipFile(tmp_path / "program.zip", "w") as archive:
        archive.writestr("__main__.py", LOOK)
    python, ours = both(arguments, tmp_path)
    assert python[1] != ""
    assert python == ours


def test_a_program_finds_its_process_as_under_python(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(PROCESS)
    python, ours = both(["script.py"], tmp_path)
    assert python[0] == 0
    assert str(python[1]).splitlines() == str(ours[1]).splitlines()
    assert python == ours


def test_modules_of_the_script_folder_are_found_first_as_under_python(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/helper.py").write_text("print('of the script')")
    (tmp_path / "helper.py").write_text("print('of the folder')")
    (tmp_path / "sub/script.py").write_text("import helper")
    python, ours = both(["sub/script.py"], tmp_path)
    assert python == ours == [0, "of the script\n", ""]


def test_a_script_reads_standard_input(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("print(input()[::-1])")
    python, ours = both(["script.py"], tmp_path, input=b"abc\n")
    assert python == ours == [0, "cba\n", ""]


def test_an_error_before_the_program_runs_is_text_although_the_program_takes_json(tmp_path: Path) -> None:
    assert recorded(["missing.py", "--json"], tmp_path) == [
        2,
        "",
        "decomp-ledger: missing.py: cannot run it: No such file or directory; name a Python script\n",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.py"], "missing.py: cannot run it"),
        (["-m", "missing_module"], "missing_module: not a module"),
        (["-m", "package"], "package: not a module"),
        (["empty"], "empty: has no __main__"),
        (["--on-error", "explode", "script.py"], "explode"),
        ([], "SCRIPT"),
    ],
)
def test_what_cannot_be_run_is_one_line_and_status_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("print('ran')")
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__init__.py").write_text("")
    (tmp_path / "empty").mkdir()
    ours = recorded(arguments, tmp_path)
    assert (ours[0], ours[1]) == (2, "")
    assert message in str(ours[2])
    assert str(ours[2]).count("\n") == 1


@pytest.mark.parametrize("ledger", ["no/such/folder/l.db", "script.py", ".", "empty.db"])
def test_a_bad_ledger_is_reported_before_the_script_runs(ledger: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("print('ran')")
    (tmp_path / "empty.db").write_text("")
    command = [sys.executable, "-m", "decomp_ledger", "--ledger", ledger, "run", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "empty.db").read_bytes() == b""


EXPORT = """
import os, sys
os.environ["OMP_NUM_THREADS"] = "1"
import torch
from torch.export import CustomDecompTable, default_decompositions
print(torch.get_num_threads())

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.linear(x, x).softmax(-1)

def lower(keep):
    table = default_decompositions()
    table.pop(keep)
    return torch.export.export(Model(), (torch.ones(3, 3),)).run_decompositions(table)

print(torch.ops.aten.linear.default in [node.target for node in lower(torch.ops.aten.linear.default).graph.nodes])
"""


def test_tables_and_exports_are_recorded_and_what_the_script_sets_first_is_obeyed(tmp_path: Path) -> None:
    (tmp_path / "export.py").write_text(EXPORT)
    ours = recorded(["--name", "job", "export.py"], tmp_path)
    assert ours[:2] == [0, "1\nTrue\n"], ours
    with Ledger(tmp_path / "decomp_ledger.db", read_only=True) as ledger:
        events = list(ledger.events())
        assert [event.kind for event in events] == ["created", "popped", "materialized", "exported"]
        assert {"job/lower/1"} == {event.table for event in events}
        site = events[1].call_site
        assert site is not None
        assert (site.file, site.function) == ("export.py", "lower")
        assert [frame.file for frame in site.frames] == ["export.py", "export.py"]  # not click's, nor ours
        assert ledger.verify().ok


@pytest.mark.parametrize("ending", ["os.kill(os.getpid(), 9)", "os._exit(5)", "1 / 0"])
def test_what_was_recorded_up_to_a_crash_is_kept(ending: str, tmp_path: Path) -> None:
    (tmp_path / "export.py").write_text(EXPORT + ending)
    recorded(["export.py"], tmp_path)
    with Ledger(tmp_path / "decomp_ledger.db", read_only=True) as ledger:
        assert [event.kind for event in ledger.events()] == ["created", "popped", "materialized", "exported"]
        assert ledger.verify().ok


def test_a_thread_that_outlives_the_script_is_recorded(tmp_path: Path) -> None:
    late = "import threading, time\ndef late():\n    time.sleep(0.5)\n    lower(torch.ops.aten.softmax.int)\n"
    (tmp_path / "export.py").write_text(EXPORT + late + "threading.Thread(target=late).start()\n")
    ours = recorded(["--name", "job", "export.py"], tmp_path)
    assert ours[0] == 0, ours
    with Ledger(tmp_path / "decomp_ledger.db", read_only=True) as ledger:
        assert {"aten::linear", "aten::softmax.int"} == {c.op for event in ledger.events() for c in event.changes}


def test_a_script_that_exports_nothing_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import torch.export\ntorch.export.default_decompositions()")
    ours = recorded(["script.py"], tmp_path)
    assert ours[0] == 0, ours
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


def test_an_interrupt_ends_the_process_by_the_signal(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(ENDINGS["interrupted"])
    python, ours = both(["script.py"], tmp_path)
    assert -signal.SIGINT == python[0] == ours[0]


# At which depths each call maps a new chunk of memory for its frame; each such call takes ten times as long.
SLOW_DEPTHS = """
import resource
import sys
exec("def leaf():\\n    if 0: " + "; ".join(f"a{i} = 0" for i in range(40)))

def faults(depth):
    if depth:
        return faults(depth - 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        leaf()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

sys.setrecursionlimit(5000)
print(*[depth for depth in range(2000) if faults(depth) >= 100])
"""


@pytest.mark.parametrize("command", ["run", "imports"])
def test_no_call_of_a_program_maps_memory_for_its_frame(command: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SLOW_DEPTHS)
    python, ours = (
        str(start([*begin, "script.py"], tmp_path)[1]).partition("\n")[0].split()
        for begin in ([sys.executable], [sys.executable, "-m", "decomp_ledger", command])
    )
    assert bool(python) == (sys.version_info >= (3, 11))
    assert ours == []


def test_the_garbage_collector_of_a_program_does_not_go_through_ours(tmp_path: Path) -> None:
    ours = "getattr(each, '__module__', '') == 'decomp_ledger.errors'"
    (tmp_path / "script.py").write_text(f"import gc\nprint([each for each in gc.get_objects() if {ours}])")
    python, recording = both(["script.py"], tmp_path)
    assert python == recording == [0, "[]\n", ""]
