"""Ed25519 signatures with the keys of OpenSSH: private key files, signers, and `ssh-keygen -Y` signatures.

A signature is the one that `ssh-keygen -Y sign -n decomp-ledger` makes of the same text, so that `ssh-keygen -Y verify`
can check it without this package. `cryptography` is imported late, because only signing and checking need it.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import os
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from types import ModuleType
from typing import TYPE_CHECKING

import attrs

from decomp_ledger.errors import SigningError, UnusableValue
from decomp_ledger.model.limits import FILE_BYTES
from decomp_ledger.storage.bounded_read import read_bounded

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "NAMESPACE",
    "Signer",
    "SigningKey",
    "armored",
    "dearmored",
    "fingerprint",
    "is_signed",
    "load_key",
    "public_line",
    "read_public_line",
    "read_signers",
    "signer_of",
]

NAMESPACE = "decomp-ledger"
_TYPE = "ssh-ed25519"
_MAGIC = b"SSHSIG"
_HASH = "sha512"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_PRIVATE = b"-----BEGIN OPENSSH PRIVATE KEY-----"


@attrs.frozen
class SigningKey:
    """A private key.

    Attributes:
        public: its public half, 32 bytes.
    """

    _private: Ed25519PrivateKey
    public: bytes

    def sign(self, text: bytes) -> bytes:
        """Return the signature of a text, 64 bytes."""
        return self._private.sign(_signed_data(text))


@attrs.frozen
class Signer:
    """A person whose signatures count.

    Attributes:
        name: the principal of an `allowed_signers` line, or the comment of a public key.
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


def load_key(path: str | os.PathLike[str], passphrase: Callable[[], str | None] = lambda: None) -> SigningKey:
    """Read a private key in OpenSSH's format.

    Args:
        path: the file, `~/.ssh/id_ed25519` say.
        passphrase: called for the passphrase if the key has one; returns None if it cannot get one.

    Raises:
        SigningError: it is not an Ed25519 key in that format, or cannot be decrypted.
    """
    data = _read(path)
    if data.split(b" ", 1)[0].startswith((b"ssh-", b"ecdsa-", b"sk-")):
        raise SigningError(f"{path}: a public key; give the private key that belongs to it")
    if not data.lstrip().startswith(_PRIVATE):
        raise SigningError(f"{path}: not a private key of OpenSSH; make one with 'ssh-keygen -t ed25519'")
    library = _cryptography()
    try:
        key = _decrypted(library, data, path, passphrase)
    except SigningError:
        raise
    except Exception as error:  # the library raises many kinds, and its messages do not name the file
        raise SigningError(f"{path}: cannot be read as a private key: {error}") from None
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not isinstance(key, Ed25519PrivateKey):
        kind = type(key).__name__.removesuffix("PrivateKey").lstrip("_")
        raise SigningError(f"{path}: a key of type {kind}, not Ed25519; make one with 'ssh-keygen -t ed25519'")
    return SigningKey(key, key.public_key().public_bytes_raw())


def _decrypted(
    library: ModuleType, data: bytes, path: str | os.PathLike[str], passphrase: Callable[[], str | None]
) -> object:
    try:
        return library.load_ssh_private_key(data, None)
    except TypeError:  # the library raises this for a key with a passphrase
        pass
    given = passphrase()
    if given is None:
        raise SigningError(f"{path}: has a passphrase; give it in $DECOMP_LEDGER_PASSPHRASE, or at a terminal")
    try:
        return library.load_ssh_private_key(data, given.encode("utf-8", "surrogateescape"))
    except ValueError:
        raise SigningError(f"{path}: wrong passphrase") from None


def _cryptography() -> ModuleType:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise SigningError(f"signatures: need the package 'cryptography' ({error}); pip install cryptography") from None
    return serialization


def is_signed(public: bytes, signature: bytes, text: bytes) -> bool:
    """Tell whether a signature of a text was made with the private half of a key."""
    _cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _signed_data(text))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def fingerprint(public: bytes) -> str:
    """Return the fingerprint of a key, as `ssh-keygen -l` prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(_key_blob(public)).digest()).decode().rstrip("=")


def public_line(public: bytes) -> str:
    """Return a key as the line of a `.pub` file."""
    return f"{_TYPE} {base64.b64encode(_key_blob(public)).decode()}"


# The wire format: https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig


def _string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def _strings(data: bytes) -> list[bytes]:
    found = []
    while data:
        if len(data) < 4 or len(data) < 4 + (size := struct.unpack(">I", data[:4])[0]):
            raise ValueError("it is cut off")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def _key_blob(public: bytes) -> bytes:
    return _string(_TYPE.encode()) + _string(public)


def _key_of(blob: bytes) -> bytes | None:
    """Return the public key in a blob; None if it is of another type."""
    kind, *rest = _strings(blob)
    return rest[0] if kind == _TYPE.encode() and len(rest) == 1 and len(rest[0]) == 32 else None


def _signed_data(text: bytes) -> bytes:
    digest = hashlib.new(_HASH, text).digest()
    return _MAGIC + b"".join(map(_string, (NAMESPACE.encode(), b"", _HASH.encode(), digest)))


def armored(public: bytes, signature: bytes) -> str:
    """Return a signature as `ssh-keygen -Y sign` writes it into a `.sig` file."""
    inner = _string(_TYPE.encode()) + _string(signature)
    parts = (_key_blob(public), NAMESPACE.encode(), b"", _HASH.encode(), inner)
    text = base64.b64encode(_MAGIC + struct.pack(">I", 1) + b"".join(map(_string, parts))).decode()
    lines = [text[at : at + 70] for at in range(0, len(text), 70)]
    return "\n".join((_BEGIN, *lines, _END)) + "\n"


def dearmored(text: str) -> tuple[bytes, bytes]:
    """Return the public key and the signature of a `.sig` file.

    Raises:
        SigningError: it is not such a file, or was made for another namespace.
    """
    match = re.fullmatch(rf"\s*{_BEGIN}\s(.*)\s{_END}\s*", text, re.DOTALL)
    try:
        data = base64.b64decode("".join((match[1] if match else "").split()), validate=True)
        if not data.startswith(_MAGIC + struct.pack(">I", 1)):
            raise ValueError("not a signature of OpenSSH")
        blob, namespace, _, method, inner = _strings(data[len(_MAGIC) + 4 :])
        kind, signature = _strings(inner)
        public = _key_of(blob)
        if public is None or kind != _TYPE.encode():
            raise ValueError("not made with an Ed25519 key")
        if (namespace, method) != (NAMESPACE.encode(), _HASH.encode()):
            raise ValueError(f"made for {namespace!r} with {method!r}")
    except ValueError as error:  # binascii.Error too
        raise SigningError(f"a signature: cannot be read: {error}") from None
    return public, signature


# Signers


def read_signers(path: str | os.PathLike[str]) -> list[Signer]:
    """Read a list of signers: OpenSSH's `allowed_signers`, or lines of `.pub` files.

    Lines of other key types, for other namespaces, and of certificate authorities are skipped.

    Raises:
        SigningError: the file or a line cannot be read, or it has no Ed25519 key.
    """
    found: list[Signer] = []
    try:
        lines = _read(path).decode().splitlines()
    except UnicodeDecodeError:
        raise SigningError(f"{path}: not a list of signers: it is not text") from None
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                signer = _signer(line.strip())
            except (ValueError, binascii.Error) as error:
                raise SigningError(f"{path}, line {number}: {error}") from None
            found += [] if signer is None else [signer]
    if not found:
        raise SigningError(f"{path}: has no Ed25519 key that may sign for {NAMESPACE!r}; add one")
    return found


def signer_of(signers: Iterable[Signer], public: bytes, moment: datetime.datetime) -> Signer | None:
    """Return the signer with a key, if their signatures count at a moment."""
    return next((signer for signer in signers if signer.public == public and signer.is_valid_at(moment)), None)


_KEY_TYPE = re.compile(r"(ssh|ecdsa|sk-ssh|sk-ecdsa)-[A-Za-z0-9@.-]+")
_WORD = re.compile(r'(?:[^\s"]|"[^"]*")+')


def _signer(line: str) -> Signer | None:
    words = _WORD.findall(line)
    at = next((at for at, word in enumerate(words) if _KEY_TYPE.fullmatch(word)), None)
    if at is None or at > 2 or len(words) < at + 2:
        raise ValueError("expected 'NAME [OPTIONS] ssh-ed25519 KEY', or the line of a .pub file")
    options = _options(words[1]) if at == 2 else {}
    name = words[0].strip('"') if at else " ".join(words[2:])
    public = read_public_line(" ".join(words[at : at + 2]))
    patterns = options.get("namespaces", NAMESPACE).split(",")
    if public is None or "cert-authority" in options or not any(fnmatchcase(NAMESPACE, one) for one in patterns):
        return None
    after, before = (_moment(options[key]) if key in options else None for key in ("valid-after", "valid-before"))
    return Signer(name or fingerprint(public), public, after, before)


def read_public_line(line: str) -> bytes | None:
    """Return the key of a `.pub` line; None if it is of another type.

    Raises:
        ValueError: the line is damaged.
    """
    kind, _, rest = line.partition(" ")
    if kind != _TYPE:
        return None
    public = _key_of(base64.b64decode(rest.split(" ")[0], validate=True))
    if public is None:
        raise ValueError("the key has another type than its line names")
    return public


def _options(text: str) -> dict[str, str]:
    known = {"cert-authority", "namespaces", "valid-after", "valid-before"}
    pairs: Sequence[str] = re.findall(r'(?:[^,"]|"[^"]*")+', text)
    options = {name.lower(): value.strip('"') for name, _, value in (pair.partition("=") for pair in pairs)}
    for name in options:
        if name not in known:
            raise ValueError(f"unknown option {name!r}; use {', '.join(sorted(known))}")
    return options


def _moment(text: str) -> datetime.datetime:
    """Read a time in OpenSSH's form: local time, unless it ends with Z."""
    digits = text.removesuffix("Z")
    form = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}.get(len(digits), "")
    moment = datetime.datetime.strptime(digits, form)
    if text.endswith("Z"):
        return moment.replace(tzinfo=datetime.timezone.utc)
    return moment.astimezone(datetime.timezone.utc)


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return read_bounded(path, FILE_BYTES)
    except UnusableValue as error:
        raise SigningError(f"{path}: {error}") from None
    except OSError as error:
        raise SigningError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise SigningError(f"{os.fspath(path)!r:.200}: not the name of a file") from None
