"""Sigma's log sources: which view of an event a rule asks for, and whether anything here produces it.

To produce a source is to give events a View whose `category` is the source's name: nothing else in this room depends
on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdogd.match import syntax

if TYPE_CHECKING:
    from watchdogd.entities import Rule

_PRODUCT = "linux"
_AUDITD = "auditd"
SERVICES = ("sshd", "sudo", "auth", "cron", "syslog")
"""Services of the journal; a view of each bears the service's name."""


def choose_view(rule: Rule) -> tuple[str, str]:
    """Name the view that the rule's log source asks for; where nothing here produces it, "" and the reason.

    Without category and service, `product: linux` asks every raw record, and so do keywords.
    """
    if rule.product not in (None, _PRODUCT):
        return "", f"nothing here produces logs of the product {rule.product!r}: this version watches Linux"
    view = _find_view(rule.category, rule.service)
    if view:
        return view, ""
    if rule.service not in (None, _AUDITD, *SERVICES):
        return "", f"the service {rule.service!r} is not read by this version"
    if rule.category not in (None, *syntax.CATEGORIES):
        return "", f"no event of this version has the category {rule.category!r}"
    return "", f"no event of the service {rule.service!r} has the category {rule.category!r}"


def _find_view(category: str | None, service: str | None) -> str:
    if category is None:
        return syntax.RECORDS if service in (None, _AUDITD) else service if service in SERVICES else ""
    return category if category in syntax.CATEGORIES and service in (None, _AUDITD) else ""
