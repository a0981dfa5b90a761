"""Lists of signers: what counts here also counts for `ssh-keygen -Y verify`."""

from __future__ import annotations

import base64
import datetime
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from decomp_ledger.errors import SigningError
from decomp_ledger.integrity.allowed_signers import read_signers, signer_of
from decomp_ledger.integrity.ssh_signatures import SigningKey, armored, public_line
from torture.common import Row, Workspace, try_all

TEXT = b"the text that is signed"
MOMENTS = ("20250101000000Z", "20260701120000Z", "20300101000000Z")
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")
GOAL = "every list that counts here counts for ssh-keygen, for the same name at the same time"


@attrs.frozen
class Keys:
    """The key that signed, and lines of keys that a list may have."""

    public: bytes
    signature: Path
    good: str
    others: tuple[str, ...]


def keys_of(folder: Path) -> Keys:
    """Sign a text with a new key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    public, stranger = (one.public_key().public_bytes_raw() for one in (key, other))
    made = (rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP256R1()))
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    lines = [one.public_key().public_bytes(*form).decode() for one in made]
    kind, blob = lines[1].split()
    raw = bytearray(base64.b64decode(blob))
    raw[-1] ^= 1  # a point that is not on the curve
    lines += [f"{kind} {base64.b64encode(raw).decode()}", "ssh-rsa AAAA", f"ssh-dss {blob}", f"ED25519 {blob}"]
    (folder / "sig").write_text(armored(public, SigningKey(key, public).sign(TEXT)))
    return Keys(public, folder / "sig", public_line(public), (public_line(stranger), *lines))


class Dice(random.Random):
    """Random choices, few odd ones in one list, and many in another."""

    odd = 0.05

    def one(self, usual: Sequence[str], odd: Sequence[str]) -> str:
        """Return one of the usual texts, or at times one of the odd ones."""
        return self.choice(odd if self.random() < self.odd else usual)


# Each returns a part of a line.


def principals(dice: Dice) -> str:
    """Return the names of a line."""
    odd = ["!ann", "!*", "[a]nn", "", "ssh-ed25519", "ünn", "ann\\", "#"]
    some = (dice.one(["ann", "ann@example.org", "*", "a?n", "bob", "*@example.org"], odd) for _ in range(3))
    text = ",".join(list(some)[: dice.choice([1, 1, 2, 3])])
    return dice.one([text, text, f'"{text}"', f'"{text} x"'], [f'"{text}', f'{text}"x"', f'"{text}"x', f"{text},"])


def namespaces(dice: Dice) -> str:
    """Return a list of patterns."""
    usual = ["decomp-ledger", "*", "git", "!git", "decomp-*", "decomp?ledger"]
    odd = ["!decomp-ledger", "!*", "decomp?ledge[r]", "[l]", "[d]ecomp-ledger", "", " decomp-ledger", "DECOMP-LEDGER",
           "decomp-ledger*", "**", "decomp-\\ledger", "*[!x]", "decomp-ledger?"]  # fmt: skip
    return ",".join(dice.one(usual, odd) for _ in range(dice.choice([1, 1, 2, 3])))


def moment(dice: Dice, usual: Sequence[str]) -> str:
    """Return a time, most of them near the moments that are asked for."""
    odd = ["20260230", "20261301", "2026070", "0", "", "19700101", "19690101", "00010101", "2026-07-01", "20260701 ",
           " 20260701", "+2026070", "20260701000060", "99991231", "20260701120000", "202607011130"]  # fmt: skip
    return dice.one(usual, odd) + dice.one(["", "Z"], ["z", "UTC", "+0000"])


def option(dice: Dice) -> str:
    """Return one option."""
    early, late = ["20200101", "20250101", "202607011130", "20260701110000"], ["20300101", "209912310000", "20260701"]
    values = {
        "namespaces": namespaces(dice), "valid-after": moment(dice, early), "valid-before": moment(dice, late),
    }  # fmt: skip
    name = dice.one(list(values), ["cert-authority", "no-touch-required", "x"])
    spelled = dice.one([name, name.upper(), name.title()], [f" {name}", f"{name} ", f"{name}x"])
    if name not in values:
        return dice.one([spelled], [f'{spelled}="yes"', f"{spelled}="])
    value = values[name]
    odd = [value, f'"{value}', f'"{value}\\""', f'""{value}""', f"'{value}'"]
    return f"{spelled}{dice.one(['='], ['', ' = ', '=='])}{dice.one([f'{chr(34)}{value}{chr(34)}'], odd)}"


def key(dice: Dice, keys: Keys) -> str:
    """Return the type and the text of a key."""
    text = dice.one([keys.good, keys.good, keys.good, *keys.others[:3]], keys.others[3:])
    at = dice.randrange(len(text))
    return dice.one([text], [text[:at] + new + text[at + 1 :] for new in ("", " ", "=", "A", "\t", "\\", "\0", "-")])


def line(dice: Dice, keys: Keys) -> str:
    """Return one line of a list."""
    options = ",".join(option(dice) for _ in range(dice.choice([0, 0, 1, 1, 2, 3])))
    options = dice.one(
        [options], [f",{options}", f"{options},", options.replace(",", ", "), options.replace(",", ",,")]
    )
    gap = dice.one([" ", "\t", "  ", " \t "], ["\xa0", "\v", "", "\0"])
    comment = dice.one(["", " ann@example.org", " # x", "\t"], [" \0", ' "', " \r", f" {keys.good}", "\r\r"])
    lead = dice.one(["", " ", "\t"], ["\f", "\ufeff", "#", "# ", "\0"])
    return lead + gap.join([principals(dice), *([options] if options else []), key(dice, keys)]) + comment


def a_list(dice: Dice, keys: Keys) -> str:
    """Return a list of signers."""
    dice.odd = dice.choice([0.0, 0.02, 0.05, 0.15])
    usual, odd = ["\n", "\r\n", "\n\n", "\n# comment\n"], ["\r", "\v", "\x85", "\u2028", "\x1c", "\f"]
    lines = [line(dice, keys) + dice.one(usual, odd) for _ in range(dice.choice([1, 1, 2, 3]))]
    return dice.one([""], [f"# comment{end}" for end in (*usual, *odd)]) + "".join(lines)


def name_for(signer: str) -> str:
    """Return a name that the patterns of a signer match."""
    return signer.split(",")[0].replace("*", "x").replace("?", "y")


def counts_for_openssh(keys: Keys, path: Path, name: str, when: str, zone: str) -> str:
    """Return "" if `ssh-keygen -Y verify` accepts a name, else why not."""
    # The line of a .pub file counts here for any name.
    path.write_bytes(re.sub(r"(?m)^([ \t]*ssh-ed25519 AAAA)", r"* \1", path.read_bytes().decode()).encode())
    done = subprocess.run(
        ["ssh-keygen", "-Y", "verify", "-f", path, "-I", name, "-n", "decomp-ledger", "-s", keys.signature,
         f"-Overify-time={when}"],
        input=TEXT, capture_output=True, check=False, env={**os.environ, "TZ": zone},
    )  # fmt: skip
    return "" if done.returncode == 0 else (done.stderr + done.stdout).decode("utf-8", "replace").strip() or "refused"


def as_openssh(workspace: Workspace) -> list[Row]:
    """Generate lists of signers; each that has the key here must have it for ssh-keygen."""
    if shutil.which("ssh-keygen") is None:
        return [Row("lists of signers", 0, GOAL, note="NOT TRIED: install openssh-client, which has ssh-keygen")]
    keys = keys_of(workspace.folder)
    counts = workspace.folder / "counts"

    def attempt(number: int) -> str:
        dice = Dice(f"{workspace.seed} {number}")
        path = workspace.folder / f"signers {number % 64}"
        text, when, zone = a_list(dice, keys), dice.choice(MOMENTS), dice.choice(ZONES)
        path.write_bytes(text.encode())
        os.environ["TZ"] = zone
        time.tzset()
        try:
            at = datetime.datetime.strptime(when, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
            signer = signer_of(read_signers(path), keys.public, at)
        except SigningError:
            signer = None
        refused = "" if signer is None else counts_for_openssh(keys, path, name_for(signer.name), when, zone)
        with counts.open("a") as file:
            file.write("refused\n" if signer is None else "counts\n")
        return f"{text!r} counts for {signer} at {when} in {zone}, and ssh-keygen: {refused}" if refused else ""

    runs = workspace.amount(20_000, 400)
    wrong = try_all(runs, attempt, patience=30)
    accepted = counts.read_text().count("counts")
    few = (f"only {accepted} lists counted, too few to compare",) if accepted < runs // 20 else ()
    return [Row("lists of signers", runs, GOAL, wrong + few, f"{accepted:,} counted here")]


FAULTS = (as_openssh,)
