"""Tell which installed distribution a file of a library belongs to, by the RECORD files of site-packages.

`importlib.metadata.packages_distributions` reads every distribution (some 100 ms); here the one with the name of the
package is asked first, and each package is looked up once.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from functools import cache
from pathlib import Path

__all__ = ["distribution_of"]

_INFO = ".dist-info"
_MAX_NAME = 100


def distribution_of(file: str, root: str) -> str:
    """Return the name and the version of the distribution that installed a file: `executorch 1.5.1`; "" if none did.

    Args:
        file: the path of the file.
        root: the folder of libraries that it is in.
    """
    relative = os.path.relpath(file, root).replace(os.sep, "/")
    package = relative.partition("/")[0]
    # A package without `__init__` may belong to several distributions.
    is_regular = package != relative and Path(root, package, "__init__.py").is_file()
    return _find(root, package, f"{package}/__init__.py" if is_regular else relative)


@cache
def _find(root: str, package: str, recorded: str) -> str:
    names = _installed(root)
    wanted = _normal(package.removesuffix(".py"))
    # That of the name first, and those of a namespace package before the others: a RECORD may have a megabyte.
    distances = {name: _distance(_normal(name.partition("-")[0]), wanted) for name in names}
    for name in sorted(names, key=distances.__getitem__):
        if _records(Path(root, name, "RECORD"), recorded):
            return " ".join(name.removesuffix(_INFO).rsplit("-", 1))[:_MAX_NAME]
    return ""


@cache
def _installed(root: str) -> tuple[str, ...]:
    with suppress(OSError):
        return tuple(sorted(name for name in os.listdir(root) if name.endswith(_INFO)))  # noqa: PTH208  # names
    return ()


def _records(path: Path, recorded: str) -> bool:
    with suppress(OSError):
        text = path.read_text("utf-8", "replace")
        return text.startswith(f"{recorded},") or f"\n{recorded}," in text
    return False


def _distance(distribution: str, package: str) -> int:
    return 0 if distribution == package else 1 if distribution.startswith(f"{package}_") else 2


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()
