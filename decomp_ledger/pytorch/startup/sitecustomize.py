"""Run at the start of each Python child of a recorded program, because its folder is first in PYTHONPATH.

It takes the place of the `sitecustomize` that the environment has, if any, so it runs that one afterwards.
"""

import importlib.machinery
import importlib.util
import os
import sys

_folder = os.path.dirname(os.path.abspath(__file__))
try:
    import decomp_ledger_following  # type: ignore[import-not-found]  # our folder is in sys.path

    decomp_ledger_following.start()
finally:
    # The program sees the path and the modules that it has without a recording.
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != _folder]

_spec = importlib.machinery.PathFinder.find_spec("sitecustomize")
if _spec is None or _spec.loader is None:
    # `site` takes this for an environment that has no sitecustomize.
    raise ImportError("no sitecustomize", name="sitecustomize")
sys.modules["sitecustomize"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules["sitecustomize"])
