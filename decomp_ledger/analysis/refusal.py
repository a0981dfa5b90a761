"""Judge one change of a table by a policy, before it is made. Pure.

Every recording imports this, so it imports nothing of the gate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from decomp_ledger.model.canonical_json import Json
from decomp_ledger.model.display import displayed
from decomp_ledger.model.events import OVERRIDE, PRESERVE, RESET
from decomp_ledger.model.policy import Policy, matching
from decomp_ledger.model.rules import Rule

__all__ = ["BrokenPolicy", "refused", "refused_tag"]


@displayed
@attrs.frozen(repr=False)
class BrokenPolicy:
    """A policy that a change would break.

    Attributes:
        policy: its name.
        op: the op; "" for the whole change.
        detail: what is wrong, one sentence.
        fix: what to do.
    """

    policy: str
    op: str
    detail: str
    fix: str

    def __str__(self) -> str:
        return f"{f'{self.op}: ' if self.op else ''}{self.detail}; {self.fix}"


def refused(
    policy: Policy,
    rules: Mapping[str, Rule],
    base: str,
    changes: Iterable[tuple[str, str]],
    *,
    actor: str,
    reason: str | None,
) -> list[BrokenPolicy]:
    """Return the policies that a change of rules would break.

    Args:
        policy: the policies.
        rules: the rules before it.
        base: the base of the table.
        changes: (op, action).
        actor: who makes it.
        reason: why; None if no reason is given.
    """
    given = list(changes)
    found = _refused_actor(policy, actor)
    if policy.require_reason and not reason and any(action != RESET for _, action in given):
        fix = 'give reason=, or change it within ledger.because("...")'
        found.append(BrokenPolicy("require_reason", "", "the change has no reason", fix))
    for op, action in given:
        for name, patterns in (("keep", policy.keep), ("no_override", policy.no_override)):
            if action == OVERRIDE and matching(patterns, op) is not None:
                found.append(BrokenPolicy(name, op, "an override of it is not allowed", "leave it out"))
        kept = rules.get(op) == Rule(PRESERVE) and base == "torch"
        if action == RESET and kept and matching(policy.keep, op) is not None:
            detail = "a reset is not allowed, because torch's default may decompose it"
            found.append(BrokenPolicy("keep", op, detail, "let it stay preserved"))
    return found


def refused_tag(policy: Policy, *, actor: str, dirty: Json) -> list[BrokenPolicy]:
    """Return the policies that a tag would break.

    Args:
        policy: the policies.
        actor: who gives it.
        dirty: whether the git tree has changes that are not committed; a text or None if that is not known.
    """
    found = _refused_actor(policy, actor)
    if policy.clean_tags and dirty is True:
        detail = "the git tree has changes that are not committed"
        found.append(BrokenPolicy("clean_tags", "", detail, "commit them first"))
    return found


def _refused_actor(policy: Policy, actor: str) -> list[BrokenPolicy]:
    if not policy.actors or matching(policy.actors, actor, ops=False) is not None:
        return []
    return [BrokenPolicy("actors", "", f"{actor} is not an allowed actor", "act as one of `actors`, or add it there")]
