"""What has become of watched files as events: `category: file_integrity`.

Fields are named as in the other views where those have the field; what was before is `Previous...`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from watchdogd.entities import Event, EventId, View
from watchdogd.file_states import (
    CONTENT,
    TARGET,
    TYPE,
    FileState,
    describe_capabilities,
    find_differences,
    list_gained,
    show_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from watchdogd.collect.package_changes import Change
    from watchdogd.entities import FieldMap
    from watchdogd.file_states import Deed

SOURCE: Final = "file_integrity"
CREATED, MODIFIED, DELETED, ATTRIBUTES = "created", "modified", "deleted", "attributes"
PACKAGES: Final = "packages"
"""Action of the one event that stands for all that package managers have done."""

_PACKAGES_SHOWN: Final = 50
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def name_action(before: FileState | None, after: FileState | None) -> str:
    """Whether a file was created, modified, deleted, or only its attributes changed."""
    if before is None:
        return CREATED
    if after is None:
        return DELETED
    return MODIFIED if {TYPE, CONTENT, TARGET} & set(find_differences(before, after)) else ATTRIBUTES


def build_event(
    change: Change,
    deed: Deed | None,
    name_user: Callable[[int], str | None],
    *,
    reverted: bool = False,
    intact: bool = False,
) -> Event:
    """One change of one file. `reverted`: it is as before by now; `intact`: it is what its package has just brought."""
    path = show_path(change.path)
    fields: FieldMap = {"TargetFilename": path}
    changed = () if change.before is None or change.after is None else find_differences(change.before, change.after)
    if changed:
        fields["Changed"] = changed
    for prefix, state in (("Previous", change.before), ("", change.after)):
        if state is not None:
            told = _describe(state, name_user)
            fields.update({f"{prefix}{name}": value for name, value in told.items()})
    if gained := list_gained(change.before, change.after):
        fields["Gained"] = gained
    if change.package is not None:
        fields["Package"] = change.package
    if intact:
        fields["PackageIntact"] = "true"
    if reverted:
        fields["Reverted"] = "true"
    return _make_event(name_action(change.before, change.after), change.time_ns, path, fields, deed)


def build_package_event(changes: Sequence[tuple[Change, str]], deed: Deed | None) -> Event:
    """One event for all files that package managers have changed, each with its package's `name version`."""
    labels = sorted({label for _, label in changes})
    fields: FieldMap = {
        "Package": tuple(labels[:_PACKAGES_SHOWN]),
        "PackageCount": len(labels),
        "FileCount": len(changes),
    }
    first = show_path(min(change.path for change, _ in changes))  # in one summary only, of several of one moment
    return _make_event(PACKAGES, max(change.time_ns for change, _ in changes), f"{PACKAGES} {first}", fields, deed)


def _make_event(action: str, time_ns: int, name: str, fields: FieldMap, deed: Deed | None) -> Event:
    time_ms = time_ns // 1_000_000
    if deed is not None:
        fields = {**deed.fields, **fields}
        if deed.others:
            fields["OtherImages"] = deed.others
    view = View(category=SOURCE, action=action, outcome="success", fields={**fields, "Action": action})
    return Event(
        id=EventId(SOURCE, None, time_ms, 0, name),
        source=SOURCE,
        views=(view,),
        process=None if deed is None else deed.process,
        lineage=() if deed is None else deed.lineage,
    )


def _describe(state: FileState, name_user: Callable[[int], str | None]) -> FieldMap:
    told: FieldMap = {
        "Type": state.kind,
        "Mode": f"{state.mode:04o}",
        "Owner": name_user(state.uid) or str(state.uid),
        "Group": str(state.gid),
        "ModifiedTime": _show_time(state.mtime_ns),
    }
    if state.kind == "file":
        told["Size"] = state.size
    if state.sha256 is not None:
        told["Hashes"] = f"SHA256={state.sha256.hex()}"
    if state.link_target is not None:
        told["LinkTarget"] = show_path(state.link_target)
    if state.capabilities is not None:
        told["Capabilities"] = describe_capabilities(state.capabilities)
    if state.xattrs:
        told["Xattrs"] = tuple(f"{name}={digest.hex()}" for name, digest in state.xattrs.items())
    return told


def _show_time(time_ns: int) -> str:
    try:
        moment = _EPOCH + timedelta(microseconds=time_ns // 1000)
    except OverflowError:
        return str(time_ns)
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
