"""Signed checkpoints, and anchors: facts about a ledger that are kept elsewhere."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from forging import cut, forge, rechain, tamper
from strategies import new_table, run_python, start_python

from decomp_ledger.errors import LedgerError, LedgerFileError, SigningError, UnusableValue
from decomp_ledger.integrity import checkpoints, ssh_signatures
from decomp_ledger.integrity.allowed_signers import read_signers
from decomp_ledger.integrity.checkpoints import Checkpoint, read_file
from decomp_ledger.integrity.ssh_signatures import SigningKey, fingerprint, load_key
from decomp_ledger.ledger import Ledger

needs_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """Write a private key in OpenSSH's format, and the public key next to it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    make: dict[str, Callable[[], ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey]] = {
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
    }
    key = make[kind]()
    hidden = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    encoding, form = serialization.Encoding, serialization.PublicFormat
    path.write_bytes(key.private_bytes(encoding.PEM, serialization.PrivateFormat.OpenSSH, hidden))
    line = key.public_key().public_bytes(encoding.OpenSSH, form.OpenSSH).decode()
    path.with_name(path.name + ".pub").write_text(f"{line} {path.name}@example.org\n")
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Name a folder with the keys of ann and bob, and a list of signers."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ann", "bob", "eve"):
        make_key(folder / name)
    ann, bob = ((folder / f"{name}.pub").read_text() for name in ("ann", "bob"))
    (folder / "signers").write_text(f"# who may\n\nann@example.org {ann}bob {bob}")
    return folder


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Give a ledger of three events."""
    ledger = Ledger(tmp_path / "ledger.db", actor="ann")
    new_table(ledger).preserve(["aten::mm"])
    ledger.table_log("edge").preserve(["aten::add"])
    return ledger


def sign(ledger: Ledger, keys: Path, name: str = "ann") -> Checkpoint:
    """Sign a ledger's head."""
    return ledger.checkpoint(load_key(keys / name))


# Signing


def test_a_checkpoint_names_its_signer_and_the_event_it_vouches_for(ledger: Ledger, keys: Path) -> None:
    first = sign(ledger, keys)
    ledger.table_log("edge").preserve(["aten::gelu"])
    second = sign(ledger, keys, "bob")
    assert (first.ledger, first.seq, first.previous) == (ledger.id, 3, None)
    assert (second.seq, second.previous) == (4, first.digest)
    assert second.hash == list(ledger.events())[-1].hash
    result = ledger.verify(signers=read_signers(keys / "signers"))
    assert result.problems == ()
    assert [(one.seq, one.signer) for one in result.signatures] == [(3, "ann@example.org"), (4, "bob")]
    assert result.to_json()["signatures"] == [one.to_json() for one in result.signatures]
    assert [one.signer for one in ledger.verify().signatures] == [None, None]


def test_a_checkpoint_and_a_verification_have_a_short_repr(ledger: Ledger, keys: Path) -> None:
    signed = sign(ledger, keys)
    assert repr(signed).startswith(f"Checkpoint(ledger='{ledger.id}', seq=3, hash='{signed.hash[:12]}', signed_at=")
    assert signed.signature not in repr(signed)
    (signature,) = ledger.verify().signatures
    assert repr(signature).startswith(f"ValidSignature(seq=3, hash='{signed.hash}', signer=None")


def test_a_ledger_without_events_cannot_be_signed(keys: Path) -> None:
    with (
        Ledger(":memory:") as empty,
        pytest.raises(SigningError, match="the ledger has no event to sign; record something first"),
    ):
        sign(empty, keys)


def test_a_ledger_without_checkpoints_is_a_problem_where_signers_are_given(ledger: Ledger, keys: Path) -> None:
    (problem,) = ledger.verify(signers=read_signers(keys / "signers")).problems
    assert problem.text == "no checkpoint is stored, so none of these signers vouches for any event"


def test_a_stranger_s_signature_counts_for_nothing(ledger: Ledger, keys: Path) -> None:
    sign(ledger, keys, "eve")
    assert ledger.verify().ok
    (problem,) = ledger.verify(signers=read_signers(keys / "signers")).problems
    assert (problem.seq, "not one of the signers at that time" in problem.text) == (3, True)


def test_any_value_of_a_checkpoint_that_is_changed_is_noticed(ledger: Ledger, keys: Path, tmp_path: Path) -> None:
    for name in ("ann", "bob", "ann"):
        sign(ledger, keys, name)
    ledger.close()
    for column in ("id", "seq", "hash", "signed_at", "previous", "key", "signature"):
        copy = Path(shutil.copy(ledger.path, tmp_path / "copy.db"))
        new = {"id": "7", "seq": "2", "signed_at": "'2026-01-01T00:00:00.000000Z'"}.get(column, "randomblob(32)")
        tamper(copy, f"UPDATE checkpoint SET {column} = {new} WHERE id = 2")
        with Ledger(copy) as opened:
            assert not opened.verify().ok, column
        copy.unlink()


@pytest.mark.parametrize("number", [1, 2])
def test_a_checkpoint_before_the_last_cannot_be_removed_unnoticed(ledger: Ledger, keys: Path, number: int) -> None:
    for name in ("ann", "bob", "ann"):
        sign(ledger, keys, name)
    ledger.close()
    tamper(Path(ledger.path), f"DELETE FROM checkpoint WHERE id = {number}")
    tamper(Path(ledger.path), f"UPDATE checkpoint SET id = id - 1 WHERE id > {number}")
    with Ledger(ledger.path) as opened:
        (problem,) = opened.verify().problems
    assert f"checkpoint {number} does not follow the one before it" in problem.text


def test_a_checkpoint_kept_elsewhere_shows_that_the_last_one_was_removed(
    ledger: Ledger, keys: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps(sign(ledger, keys).to_json()))
    signers = read_signers(keys / "signers")
    ledger.close()
    tamper(Path(ledger.path), "DELETE FROM checkpoint")
    with Ledger(ledger.path) as opened:
        assert opened.verify().ok
        result = opened.verify(signers=signers, checkpoints=[read_file(kept)])
        assert result.signatures[0].signer == "ann@example.org"
        assert "was removed from the ledger" in result.problems[0].text
    tamper(Path(ledger.path), lambda db: (db.execute("UPDATE provenance SET actor = 'eve'"), rechain(db)))
    with Ledger(ledger.path) as opened:
        assert opened.verify().ok
        problem = opened.verify(checkpoints=[read_file(kept)]).problems[0]
    assert (problem.seq, "vouches for the hash" in problem.text) == (3, True)


def test_another_ledger_s_checkpoint_vouches_for_nothing_here(ledger: Ledger, keys: Path) -> None:
    with Ledger(":memory:", actor="ann") as other:
        new_table(other)
        theirs = sign(other, keys)
    (problem,) = ledger.verify(checkpoints=[theirs]).problems
    assert f"belongs to the ledger {theirs.ledger}, not to {ledger.id}" in problem.text


def test_a_forged_checkpoint_is_noticed(ledger: Ledger, keys: Path) -> None:
    signed = sign(ledger, keys)
    forged = attrs.evolve(signed, seq=2, hash=list(ledger.events())[1].hash)
    problem = ledger.verify(checkpoints=[forged]).problems[0]
    assert (problem.seq, "a signature that was not made with its key" in problem.text) == (2, True)


def test_no_row_of_the_checkpoints_can_be_changed_behind_the_triggers(ledger: Ledger, keys: Path) -> None:
    sign(ledger, keys)
    for text in (
        "UPDATE checkpoint SET seq = 1",
        "DELETE FROM checkpoint",
        "REPLACE INTO checkpoint SELECT * FROM checkpoint",
    ):
        with pytest.raises(LedgerError, match="append-only"), ledger.database.write_transaction() as connection:
            connection.execute(text)


# A cut tail, and a rewritten history


def test_anchors_show_a_cut_tail(ledger: Ledger) -> None:
    events = list(ledger.events())
    anchors = [(event.seq, event.hash) for event in events]
    ledger.close()
    tamper(Path(ledger.path), lambda db: cut(db, 2))
    with Ledger(ledger.path) as opened:
        assert opened.verify(expect=[events[1].hash.upper()], anchors=anchors[:2]).ok
        (problem,) = opened.verify(anchors=anchors).problems
        assert problem.seq == 3
        assert problem.text.endswith("the tail was cut (the anchors agree up to #2)")
        (problem,) = opened.verify(expect=[events[2].hash]).problems
        assert (problem.seq, problem.text.startswith(f"no event has the hash {events[2].hash}")) == (None, True)


@pytest.mark.parametrize(
    "seq",
    [0, -1, 2**63, 10**30, -(10**30), pytest.param(10**5000, id="5001 digits"), float("inf"), 1.5, True, "7", None],
)
def test_an_anchor_needs_a_seq_that_an_event_can_have(ledger: Ledger, seq: Any) -> None:
    with pytest.raises(UnusableValue, match=r": not the seq of an event; give an integer from 1 to 2\*\*63 - 1$"):
        ledger.verify(anchors=[(seq, "ab" * 32)])


def test_an_anchor_of_the_largest_seq_is_missing(ledger: Ledger) -> None:
    (problem,) = ledger.verify(anchors=[(2**63 - 1, "ab" * 32)]).problems
    assert (problem.seq, "and is missing" in problem.text) == (2**63 - 1, True)


def test_anchors_name_the_first_event_of_a_rewritten_history(ledger: Ledger) -> None:
    anchors = [(event.seq, event.hash) for event in ledger.events()]
    ledger.close()
    tamper(Path(ledger.path), lambda db: forge(db, 2))
    with Ledger(ledger.path) as opened:
        assert opened.verify().ok
        assert [problem.seq for problem in opened.verify(anchors=anchors).problems] == [2, 3]
        assert "the anchors agree up to #1" in opened.verify(anchors=anchors[::-1]).problems[0].text


@pytest.mark.parametrize("bad", ["", "12ab", "z" * 64])
def test_a_text_that_is_not_a_hash_is_an_error(ledger: Ledger, bad: str) -> None:
    with pytest.raises(LedgerError, match="not the hash of an event; give 64 hex digits"):
        ledger.verify(expect=[bad])


# Keys and signers


def test_a_key_with_a_passphrase_is_decrypted(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key", passphrase="correct horse ä")
    line = key.with_name("key.pub").read_text().rpartition(" ")[0]
    assert ssh_signatures.public_line(load_key(key, lambda: "correct horse ä").public) == line
    with pytest.raises(SigningError, match="key: wrong passphrase"):
        load_key(key, lambda: "wrong")
    with pytest.raises(SigningError, match=r"key: has a passphrase; give it in \$DECOMP_LEDGER_PASSPHRASE"):
        load_key(key)


BAD_KEYS: dict[str, tuple[Callable[[Path], object], str]] = {
    "rsa": (lambda path: make_key(path, "rsa"), "a key of type RSA, not Ed25519; make one with"),
    "ecdsa": (lambda path: make_key(path, "ecdsa"), "not Ed25519; make one with"),
    "text": (lambda path: path.write_text("hello"), "not a private key of OpenSSH"),
    "empty": (lambda path: path.write_text(""), "not a private key of OpenSSH"),
    "public": (lambda path: path.write_text("ssh-ed25519 AAAA me"), "a public key; give the private key"),
    "folder": (lambda path: path.mkdir(), "cannot be read: Is a directory"),
    "missing": (lambda path: None, "cannot be read: No such file"),
    "cut off": (lambda path: path.write_bytes(make_key(path).read_bytes()[:200]), "cannot be read as a private key"),
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_a_file_that_cannot_sign_gives_one_clear_error(tmp_path: Path, name: str) -> None:
    make, message = BAD_KEYS[name]
    make(tmp_path / "key")
    with pytest.raises(SigningError, match=message) as caught:
        load_key(tmp_path / "key")
    assert str(caught.value).startswith(str(tmp_path / "key"))
    assert "\n" not in str(caught.value)


def test_signers_are_read_as_openssh_reads_them(keys: Path, tmp_path: Path) -> None:
    ann, bob, eve = ((keys / f"{name}.pub").read_text().strip() for name in ("ann", "bob", "eve"))
    rsa = make_key(tmp_path / "rsa", "rsa").with_name("rsa.pub").read_text()
    (tmp_path / "signers").write_text(
        f'ann,annie@example.org namespaces="git,decomp-*" {ann}\n'
        f'"b o b" valid-after="20300101Z",valid-before="20400101000000Z" {bob}\n'
        f'git namespaces="git" {eve}\n'
        f"ca cert-authority {eve}\n"
        f"{eve}\n"
        f"{rsa}"
    )
    found = read_signers(tmp_path / "signers")
    assert [signer.name for signer in found] == ["ann,annie@example.org", "b o b", "eve@example.org"]
    assert found[1].valid_after is not None and found[1].valid_after.isoformat() == "2030-01-01T00:00:00+00:00"
    assert [signer.public for signer in found] == [load_key(keys / name).public for name in ("ann", "bob", "eve")]


def test_a_signature_counts_only_while_its_signer_may_sign(ledger: Ledger, keys: Path, tmp_path: Path) -> None:
    sign(ledger, keys)
    ann = (keys / "ann.pub").read_text()
    for options, ok in (
        ('valid-before="20200101"', False),
        ('valid-after="99990101"', False),
        ('Valid-After="20200101"', True),
    ):
        (tmp_path / "signers").write_text(f"ann {options} {ann}")
        assert ledger.verify(signers=read_signers(tmp_path / "signers")).ok is ok


KEY = ssh_signatures.public_line(bytes(32))
# Lines that OpenSSH refuses, or reads in another way.
REFUSED = {
    f'ann namespaces="decomp-ledger",namespaces="*" {KEY}': "the option 'namespaces' is given twice",
    f"ann valid-after=20200101 {KEY}": "the option 'valid-after=20200101' has no value in double quotes",
    f'ann namespaces {KEY}': "the option 'namespaces' has no value in double quotes",
    f'ann cert-authority="yes" {KEY}': "the option 'cert-authority=.*one that it does not take",
    f'ann valid-after="2020-01-01" {KEY}': "'2020-01-01': not a time",
    f'ann valid-after="٢٠٢٠٠١٠١" {KEY}': "not a time",
    f'ann valid-after="20200230" {KEY}': "day is out of range",
    f'ann valid-after="19690101Z" {KEY}': "not after 1970",
    f'ann valid-after="20300101Z",valid-before="20200101Z" {KEY}': "'valid-before' is not after 'valid-after'",
    f"!ann,* {KEY}": "an empty, a very long or a negated part",
    f"ann,,bob {KEY}": "an empty, a very long or a negated part",
    f'"ann {KEY}': "not a signer; write 'NAME",
    f'"ann"{KEY}': "not a signer; write 'NAME",
    f"ann\x0b {KEY}": "it has characters that do not print",
    f"ann {KEY}\0": "it has characters that do not print",
    f"ann ssh-dss {KEY.split()[1]}": "not a signer; write 'NAME",
    f"ann {KEY[:-4]}": "it is cut off",
}  # fmt: skip


def test_a_line_in_a_comment_does_not_count(tmp_path: Path) -> None:
    for end in ("\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r"):
        (tmp_path / "signers").write_bytes(f"# a comment{end}eve {KEY}\n".encode())
        with pytest.raises(SigningError, match="has no Ed25519 key"):
            read_signers(tmp_path / "signers")


@pytest.mark.parametrize(
    ("patterns", "permitted"),
    [
        ("decomp-ledger", True), ("*", True), ("git,decomp-*", True), ("decomp?ledger", True), ("*,!git", True),
        ("!decomp-ledger,*", False), ("*,!decomp-*", False), ("!git", False), ("", False), ("decomp-ledge[r]", False),
        ("Decomp-Ledger", False), ("decomp-ledger ", False),
    ],
)  # fmt: skip
def test_namespaces_are_matched_as_openssh_does(tmp_path: Path, patterns: str, permitted: bool) -> None:
    (tmp_path / "signers").write_text(f'ann namespaces="{patterns}" {KEY}\nbob {KEY}\n')
    assert [signer.name for signer in read_signers(tmp_path / "signers")] == ["ann"] * permitted + ["bob"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no Ed25519 key that may sign for 'decomp-ledger'"),
        ("hello", "line 1: not a signer; write 'NAME"),
        ("\nann ssh-ed25519 !!!", "line 2: "),
        ("ann ssh-ed25519 AAAAB3NzaC1yc2E=", "line 1: the key has another type"),
        ("ann frobnicate ssh-ed25519 AAAA", "line 1: unknown option 'frobnicate'"),
        ("\x00\xff", "not a list of signers: it is not text"),
        ("#" * (2 << 20), "it has more than 1048576 bytes; at most 1048576 can be read"),
        *((line, f"line 1: .*{message}") for line, message in REFUSED.items()),
    ],
)
def test_signers_that_cannot_be_read_are_named_by_line(tmp_path: Path, text: str, message: str) -> None:
    encoding = "latin-1" if "\xff" in text else "utf-8"
    (tmp_path / "signers").write_bytes(text.encode(encoding))
    with pytest.raises(SigningError, match=message):
        read_signers(tmp_path / "signers")


BAD_FILES = {
    "no JSON": "{",
    "no object": "[]",
    "nothing in it": "{}",
    "a deep one": "[" * 100_000,
    "another text": json.dumps({"text": "{}", "key": "", "signature": ""}),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_not_a_checkpoint_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text(BAD_FILES[name])
    with pytest.raises(SigningError, match=str(tmp_path / "file")):
        read_file(tmp_path / "file")
    with pytest.raises(SigningError, match="cannot be read"):
        read_file(tmp_path / "missing")


@pytest.mark.parametrize("part", ["key", "signature", "text"])
def test_a_checkpoint_with_a_part_of_another_one_is_not_valid(ledger: Ledger, keys: Path, part: str) -> None:
    mine, theirs = sign(ledger, keys).to_json(), sign(ledger, keys, "bob").to_json()
    try:
        mixed = Checkpoint.from_json({**mine, part: theirs[part]})
    except SigningError:
        return
    assert not mixed.is_signed()


@needs_keygen
def test_openssh_checks_what_was_signed_and_its_signatures_are_read(ledger: Ledger, keys: Path, tmp_path: Path) -> None:
    signed = sign(ledger, keys).to_json()
    (tmp_path / "sig").write_text(str(signed["signature"]))
    command = ["ssh-keygen", "-Y", "verify", "-f", str(keys / "signers"), "-I", "ann@example.org"]
    done = subprocess.run(
        [*command, "-n", "decomp-ledger", "-s", str(tmp_path / "sig")],
        input=str(signed["text"]), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (keys / "ann").chmod(0o600)
    (tmp_path / "text").write_text(str(signed["text"]))
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-f", str(keys / "ann"), "-n", "decomp-ledger", str(tmp_path / "text")],
        check=True, capture_output=True,
    )  # fmt: skip
    theirs = (tmp_path / "text.sig").read_text()
    assert ssh_signatures.dearmored(theirs) == ssh_signatures.dearmored(str(signed["signature"]))
    assert theirs == signed["signature"]


@needs_keygen
def test_keys_that_openssh_makes_can_sign(ledger: Ledger, tmp_path: Path) -> None:
    for name, passphrase in (("plain", ""), ("hidden", "secret words")):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "me", "-f", str(tmp_path / name)], check=True
        )
        key = load_key(tmp_path / name, lambda: "secret words")
        assert isinstance(key, SigningKey)
        ledger.checkpoint(key)
        printed = subprocess.run(
            ["ssh-keygen", "-l", "-f", str(tmp_path / name)], capture_output=True, text=True, check=True
        )
        assert printed.stdout.split()[1] == fingerprint(key.public)
        assert read_signers(tmp_path / f"{name}.pub")[0].name == "me"
    assert ledger.verify().ok


# Without the package, and from the command line

_MISSING = """
sys.modules["cryptography"] = None
from decomp_ledger.ledger import Ledger
from decomp_ledger.integrity.ssh_signatures import load_key
with Ledger(sys.argv[1]) as ledger:
    print(ledger.verify().ok)
    try:
        load_key(sys.argv[2])
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_cryptography_is_needed_only_where_something_is_signed_or_checked(ledger: Ledger, keys: Path) -> None:
    lines = run_python(_MISSING, ledger.path, keys / "ann").splitlines()
    assert lines[0] == "True"
    assert lines[1].startswith("SigningError signatures: need the package 'cryptography'")
    sign(ledger, keys)
    process = start_python(_MISSING, ledger.path, keys / "ann")
    assert "SigningError: signatures: need the package 'cryptography'" in process.communicate(timeout=60)[1]


def command(ledger: Path | str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run decomp-ledger without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "decomp_ledger", "--ledger", str(ledger), *arguments],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env={**os.environ, **environment},
    )  # fmt: skip


def test_the_command_line_signs_and_checks(ledger: Ledger, keys: Path, tmp_path: Path) -> None:
    head = list(ledger.events())[-1].hash
    ledger.close()
    out = tmp_path / "kept.json"
    done = command(ledger.path, "checkpoint", "--key", str(keys / "ann"), "--output", str(out))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"signed up to #3 by {fingerprint(load_key(keys / 'ann').public)}; head {head}\n"
    done = command(
        ledger.path, "verify", "--signers", str(keys / "signers"), "--checkpoint", str(out), "--expect", head
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, second, *compared = done.stdout.splitlines()
    assert compared == [f"it has the event of the hash {head}", f"it has what the checkpoint {out} signed"]
    assert first.startswith("signed up to #3, 20") and first.endswith(" by ann@example.org")
    assert second == f"3 events, the chain is whole; head {head}"
    done = command(ledger.path, "verify", "--expect", "0" * 64, "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (1, False)
    done = command(ledger.path, "verify", "--expect", "nonsense")
    assert (done.returncode, "not the hash of an event" in done.stderr) == (2, True)


def test_the_command_line_takes_the_passphrase_from_the_environment(ledger: Ledger, tmp_path: Path) -> None:
    key = make_key(tmp_path / "key", passphrase="secret")
    ledger.close()
    done = command(ledger.path, "checkpoint", "--key", str(key))
    assert (done.returncode, "has a passphrase; give it in $DECOMP_LEDGER_PASSPHRASE" in done.stderr) == (2, True)
    done = command(ledger.path, "checkpoint", "--key", str(key), "--json", DECOMP_LEDGER_PASSPHRASE="secret")
    assert Checkpoint.from_json(json.loads(done.stdout)).is_signed()
    nowhere = command(
        ledger.path, "checkpoint", "--key", str(key), "-o", "/nowhere/x", DECOMP_LEDGER_PASSPHRASE="secret"
    )
    assert "/nowhere/x: it cannot be made: the folder /nowhere does not exist" in nowhere.stderr


def test_a_stored_checkpoint_is_read_back_as_it_was_signed(ledger: Ledger, keys: Path) -> None:
    signed = [sign(ledger, keys, name) for name in ("ann", "bob")]
    with ledger.database.reading() as connection:
        assert list(checkpoints.stored_checkpoints(connection, ledger.id)) == signed
        assert [Checkpoint.from_json(one.to_json()) for one in signed] == signed


def test_a_checkpoint_is_written_in_the_same_call(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    key = SigningKey(private, private.public_key().public_bytes_raw())
    with Ledger(tmp_path / "l.db", actor="ada") as ledger:
        new_table(ledger)
        ledger.checkpoint(key, output=tmp_path / "release.json")
        assert ledger.verify(checkpoints=tmp_path / "release.json").ok
        with pytest.raises(LedgerFileError, match="; the ledger has the checkpoint, and a new one can be written"):
            ledger.checkpoint(key, output=tmp_path / "nowhere" / "release.json")
        assert len(ledger.verify().signatures) == 2
