"""Name a hub, and show what was named without a password.

Every command imports this, also one that uses no hub.
"""

from __future__ import annotations

import os
import re

from decomp_ledger.errors import HubError

__all__ = ["HUB_VARIABLE", "hub_url", "without_password"]

HUB_VARIABLE = "DECOMP_LEDGER_HUB"
_SECRET = re.compile(
    r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^/?#@\s]*?)(:\S*)?@(?=\S)|(?P<key>\b(ssl)?password=)[^\s&]+"
    # An address without its scheme, which is an error that may be quoted.
    r"|(?P<bare>(?<![^\s('\"])[^\s:/@('\"]+):[^\s/@]+@(?=[^\s/@]+/)"
)


def without_password(text: str) -> str:
    """Return a text, such as a command line, with the password of each address in it left out."""
    return _SECRET.sub(_without_secret, text)


def _without_secret(found: re.Match[str]) -> str:
    if found["key"]:
        return f"{found['key']}***"
    return f"{found['bare']}:***@" if found["bare"] else f"{found['before']}{found['user']}:***@"


def hub_url(given: str | None, setting: str | None = None) -> str:
    """Return the address of the hub: as given, else `DECOMP_LEDGER_HUB`, else the setting of the project.

    Raises:
        HubError: none of them gives one.
    """
    found = given or os.environ.get(HUB_VARIABLE) or setting
    if not found:
        raise HubError(
            f"no hub is named; give its address, set {HUB_VARIABLE}, or write `hub = ...` in [tool.decomp-ledger] of "
            "pyproject.toml"
        )
    return found
