"""Ed25519 signatures with the keys of OpenSSH: private key files, and `ssh-keygen -Y` signatures.

A signature is the one that `ssh-keygen -Y sign -n decomp-ledger` makes of the same text, so that `ssh-keygen -Y verify`
can check it without this package. `cryptography` is imported late, because only signing and checking need it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import struct
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

import attrs

from decomp_ledger.errors import SigningError, UnusableValue
from decomp_ledger.model.arguments import checked
from decomp_ledger.model.display import displayed
from decomp_ledger.model.handles import Handle
from decomp_ledger.model.limits import FILE_BYTES
from decomp_ledger.storage.bounded_read import read_bounded

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "NAMESPACE",
    "SigningKey",
    "armored",
    "check_other_key",
    "dearmored",
    "fingerprint",
    "is_signed",
    "key_of",
    "load_key",
    "public_line",
    "read_small_file",
]

NAMESPACE = "decomp-ledger"
_TYPE = "ssh-ed25519"
_MAGIC = b"SSHSIG"
_HASH = "sha512"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_PRIVATE = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_MIN_RSA, _MAX_RSA = 1024, 16384  # bits that OpenSSH reads


@displayed
@attrs.frozen
class SigningKey(Handle):
    """A private key.

    Attributes:
        public: its public half, 32 bytes.
    """

    instead = "load the key again, with load_key(path)"

    _private: Ed25519PrivateKey
    public: bytes

    def sign(self, text: bytes) -> bytes:
        """Return the signature of a text, 64 bytes."""
        return self._private.sign(_signed_data(text))


@checked
def load_key(path: str | os.PathLike[str], passphrase: Callable[[], str | None] = lambda: None) -> SigningKey:
    """Read a private key in OpenSSH's format.

    Args:
        path: the file, `~/.ssh/id_ed25519` say.
        passphrase: called for the passphrase if the key has one; returns None if it cannot get one.

    Raises:
        SigningError: it is not an Ed25519 key in that format, or cannot be decrypted.
    """
    data = read_small_file(path)
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
        raise SigningError(f"{path}: cannot be read as a private key: {error}; name another key") from None
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
        raise SigningError(f"{path}: wrong passphrase; give the one of this key") from None


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


def key_of(blob: bytes) -> bytes | None:
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
        public = key_of(blob)
        if public is None or kind != _TYPE.encode():
            raise ValueError("not made with an Ed25519 key")
        if (namespace, method) != (NAMESPACE.encode(), _HASH.encode()):
            raise ValueError(f"made for {namespace!r} with {method!r}")
    except ValueError as error:  # binascii.Error too
        raise SigningError(f"a signature: cannot be read: {error}") from None
    return public, signature


def check_other_key(kind: str, blob: bytes) -> None:
    """Refuse a key of another type than Ed25519 that OpenSSH could not read.

    Args:
        kind: its type.
        blob: the key.

    Raises:
        ValueError: it is damaged.
    """
    found, *rest = _strings(blob)
    sizes = {"sk-ssh-ed25519@openssh.com": 2, "ssh-rsa": 2, "sk-ecdsa-sha2-nistp256@openssh.com": 3}
    if found != kind.encode() or len(rest) != sizes.get(kind, 2):
        raise ValueError("the key has another type than its line names, or is damaged")
    if kind == "sk-ssh-ed25519@openssh.com":
        if len(rest[0]) != 32:
            raise ValueError("the key is damaged")
        return
    plain = kind.removeprefix("sk-").removesuffix("@openssh.com")
    library, line = _cryptography(), base64.b64encode(b"".join(map(_string, (plain.encode(), *rest[:2]))))
    try:
        key = library.load_ssh_public_key(plain.encode() + b" " + line)
    except Exception as error:  # the library raises many kinds
        raise ValueError(f"the key is damaged: {error}") from None
    if kind == "ssh-rsa" and not _MIN_RSA <= key.key_size <= _MAX_RSA:
        raise ValueError(f"an RSA key of {key.key_size} bits, which OpenSSH refuses")


def read_small_file(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a file of keys or signers.

    Raises:
        SigningError: it cannot be read, or has more than a megabyte.
    """
    try:
        return read_bounded(path, FILE_BYTES)
    except UnusableValue as error:
        raise SigningError(f"{path}: {error}") from None
    except OSError as error:
        raise SigningError(f"{path}: cannot be read: {error.strerror}; name another file") from None
    except ValueError:
        raise SigningError(f"{os.fspath(path)!r:.200}: not the name of a file") from None
