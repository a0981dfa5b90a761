"""Whose signatures count: OpenSSH's `allowed_signers`, or lines of `.pub` files.

A line is read only if it means here exactly what it means to `ssh-keygen -Y verify`; every other one is an error.
OpenSSH stops at a line that it cannot read, so that a line behind one must not count here either.
"""

from __future__ import annotations

import base64
import datetime
import os
import re
import time
from collections.abc import Iterable

import attrs

from decomp_ledger.errors import SigningError
from decomp_ledger.integrity.ssh_signatures import NAMESPACE, check_other_key, fingerprint, key_of, read_small_file
from decomp_ledger.model.arguments import checked
from decomp_ledger.model.display import displayed

__all__ = ["Signer", "read_signers", "signer_of"]

_ED25519 = "ssh-ed25519"
# Of these only the form is checked. OpenSSH 10 does not know ssh-dss any more, so a line with one is an error.
_OTHER_TYPES = (
    "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)  # fmt: skip
_TYPE = "|".join(map(re.escape, (_ED25519, *_OTHER_TYPES)))
_KEY = rf"(?P<type>{_TYPE})[ \t]+(?P<key>[A-Za-z0-9+/]+=*)(?:[ \t]+(?P<comment>.*))?"
_OPTION = r'[A-Za-z-]+(?:=(?:"[^"\\]*"|[^ \t",\\]*))?'
_NAME = r'(?:"(?P<quoted>[^"]+)"|(?P<plain>[^ \t"]+))'
_LINE = re.compile(rf"{_NAME}[ \t]+(?:(?P<options>{_OPTION}(?:,{_OPTION})*)[ \t]+)?{_KEY}")
_PUBLIC_LINE = re.compile(_KEY)
_FLAGS, _VALUES = {"cert-authority"}, {"namespaces", "valid-after", "valid-before"}
_MAX_PATTERN = 1000  # OpenSSH's limit is 1024


@displayed
@attrs.frozen
class Signer:
    """A person whose signatures count.

    Attributes:
        name: the principals of an `allowed_signers` line, or the comment of a public key.
        public: their public key, 32 bytes.
        valid_after: from when their signatures count, UTC; None for always.
        valid_before: until when; None without an end.
    """

    name: str
    public: bytes
    valid_after: datetime.datetime | None = None
    valid_before: datetime.datetime | None = None

    def is_valid_at(self, moment: datetime.datetime) -> bool:
        """Tell whether their signatures count at a moment."""
        after, before = self.valid_after, self.valid_before
        return (after is None or moment >= after) and (before is None or moment < before)


@checked
def read_signers(path: str | os.PathLike[str]) -> list[Signer]:
    """Read a list of signers: OpenSSH's `allowed_signers`, or lines of `.pub` files.

    Lines of other key types, for other namespaces, and of certificate authorities are skipped.

    Raises:
        SigningError: the file or a line cannot be read, or it has no Ed25519 key.
    """
    found: list[Signer] = []
    try:
        text = read_small_file(path).decode()
    except UnicodeDecodeError:
        raise SigningError(f"{path}: not a list of signers: it is not text; name a file of `.pub` lines") from None
    # Not by splitlines(), which also ends a line, and with it a comment, at characters that OpenSSH passes over.
    for number, line in enumerate(text.split("\n"), 1):
        content = line.removesuffix("\r").strip(" \t")
        if content and not content.startswith("#"):
            try:
                signer = _signer(content)
            except ValueError as error:
                raise SigningError(f"{path}, line {number}: {error}") from None
            found += [] if signer is None else [signer]
    if not found:
        raise SigningError(f"{path}: has no Ed25519 key that may sign for {NAMESPACE!r}; add one")
    return found


def signer_of(signers: Iterable[Signer], public: bytes, moment: datetime.datetime) -> Signer | None:
    """Return the signer with a key, if their signatures count at a moment."""
    return next((signer for signer in signers if signer.public == public and signer.is_valid_at(moment)), None)


def _signer(line: str) -> Signer | None:
    """Read one line; return None if it is not about Ed25519 signatures of checkpoints.

    Raises:
        ValueError: the line is damaged, or has a construct that is not read here as OpenSSH reads it.
    """
    if not line.replace("\t", " ").isprintable():
        raise ValueError("it has characters that do not print; remove them")
    match = _LINE.fullmatch(line)
    public_line = None if match else _PUBLIC_LINE.fullmatch(line)
    if match is not None:
        name = _principals(match["quoted"] or match["plain"])
        options = _options(match["options"] or "")
        public = _public(match)
    elif public_line is not None:
        name, options, public = public_line["comment"] or "", {}, _public(public_line)
    else:
        raise ValueError("not a signer; write 'NAME [OPTIONS] ssh-ed25519 KEY', or the line of a .pub file")
    after, before = _moments(options)
    if public is None or "cert-authority" in options or not _matches(NAMESPACE, options.get("namespaces", NAMESPACE)):
        return None
    return Signer(name or fingerprint(public), public, after, before)


def _principals(text: str) -> str:
    for pattern in text.split(","):
        if not pattern or pattern.startswith("!") or len(pattern) > _MAX_PATTERN:
            raise ValueError(f"the name {text!r:.80} has an empty, a very long or a negated part; name each signer")
    return text


def _public(match: re.Match[str]) -> bytes | None:
    """Return the Ed25519 key of a line; None if it has a key of another type."""
    blob = base64.b64decode(match["key"], validate=True)
    if base64.b64encode(blob).decode() != match["key"]:
        raise ValueError("the key is not in canonical base64")
    if match["type"] != _ED25519:
        check_other_key(match["type"], blob)
        return None
    public = key_of(blob)
    if public is None:
        raise ValueError("the key has another type than its line names")
    return public


def _options(text: str) -> dict[str, str]:
    """Return name -> value of the options, and refuse one that is given twice."""
    found: dict[str, str] = {}
    for option in re.findall(_OPTION, text):
        name, equals, value = option.partition("=")
        name = name.lower()
        if name not in _FLAGS | _VALUES:
            raise ValueError(f"unknown option {name!r}; use {', '.join(sorted(_FLAGS | _VALUES))}")
        if (name in _VALUES) != bool(equals) or (equals and not value.startswith('"')):
            raise ValueError(f"the option {option!r:.80} has no value in double quotes, or one that it does not take")
        if name in found:
            raise ValueError(f"the option {name!r} is given twice; give it once")
        found[name] = value[1:-1]
    return found


def _matches(name: str, patterns: str) -> bool:
    """Tell whether a list of patterns with `*`, `?` and a leading `!` matches a name, as OpenSSH decides it."""
    positive = False
    for pattern in patterns.split(","):
        if len(pattern) > _MAX_PATTERN:
            raise ValueError(f"a pattern of {len(pattern)} characters is too long; shorten it")
        form = re.escape(pattern.removeprefix("!")).replace(r"\*", ".*").replace(r"\?", ".")
        if re.fullmatch(form, name):
            if pattern.startswith("!"):
                return False
            positive = True
    return positive


def _moments(options: dict[str, str]) -> tuple[datetime.datetime | None, datetime.datetime | None]:
    """Return from when and until when a line counts, UTC."""
    # The later one and the earlier one: in a summer, OpenSSH reads a local time an hour off in some versions.
    after = max(_readings(options["valid-after"])) if "valid-after" in options else None
    before = min(_readings(options["valid-before"])) if "valid-before" in options else None
    if after is not None and before is not None and before <= after:
        raise ValueError("'valid-before' is not after 'valid-after'")
    return after, before


def _readings(text: str) -> list[datetime.datetime]:
    """Return the moments that a time in OpenSSH's form may mean: local time, unless it ends with Z."""
    digits = text.removesuffix("Z")
    form = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}.get(len(digits))
    if form is None or not set(digits) <= set("0123456789"):
        raise ValueError(f"{text!r:.40}: not a time; give YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, and Z for UTC")
    moment = datetime.datetime.strptime(digits, form)
    if text.endswith("Z"):
        seconds = [moment.replace(tzinfo=datetime.timezone.utc).timestamp()]
    else:
        fields = moment.timetuple()[:8]
        try:
            seconds = [time.mktime((*fields, is_summer)) for is_summer in (0, -1)]
        except OverflowError:
            seconds = [-1.0]
    if min(seconds) <= 0:
        raise ValueError(f"{text!r}: not after 1970; give a later time")
    return [datetime.datetime.fromtimestamp(each, datetime.timezone.utc) for each in seconds]
