"""A changed file in words: what was done to it, and by whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.write.conftest import build_alert, make_process
from tests.write.formats.made import HOSTILE
from watchdogd.write.formats.ecs import alert_document
from watchdogd.write.formats.text import alert_line, describe_deed, escape_controls

if TYPE_CHECKING:
    from watchdogd.entities import Alert, FieldMap


def make(fields: FieldMap, *, known: bool = False) -> Alert:
    return build_alert(
        source="file_integrity",
        category="file_integrity",
        action=str(fields.get("Action", "")),
        fields=fields,
        process=make_process(4000, "/usr/bin/vim", "/etc/passwd", user="root", login="ann") if known else None,
        lineage=(make_process(1, "/usr/bin/bash"),) if known else (),
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"Action": "modified", "TargetFilename": "/etc/passwd", "Changed": ("content",)},
            'changed "/etc/passwd" (content)',
        ),
        (
            {
                "Action": "attributes",
                "TargetFilename": "/usr/bin/find",
                "Changed": ("mode", "owner"),
                "Gained": ("setuid",),
                "PreviousMode": "0755",
                "Mode": "4755",
                "PreviousOwner": "root",
                "Owner": "ann b",
            },
            'changed attributes of "/usr/bin/find" (new rights: setuid; mode 0755 to 4755; owner root to "ann b")',
        ),
        (
            {
                "Action": "created",
                "TargetFilename": "/usr/bin/x",
                "Type": "link",
                "Mode": "0777",
                "Owner": "root",
                "LinkTarget": "/tmp/x",
            },
            'created "/usr/bin/x" (link, mode 0777, owner "root"; leads to "/tmp/x")',
        ),
        ({"Action": "deleted", "TargetFilename": "/etc/sudoers"}, 'deleted "/etc/sudoers"'),
        (
            {
                "Action": "modified",
                "TargetFilename": "/etc/x",
                "Changed": ("capabilities",),
                "Capabilities": "cap_net_raw=ep",
                "Reverted": "true",
                "OtherImages": ("/usr/bin/sed",),
            },
            'changed "/etc/x" (capabilities none to "cap_net_raw=ep"; undone since; other programs wrote it, too)',
        ),
        (
            {"Action": "packages", "Package": ("a 1", "b 2"), "PackageCount": 2, "FileCount": 41},
            'changed 41 files of 2 packages: "a 1, b 2"',
        ),
        (
            {"Action": "packages", "Package": tuple("abcdefg"), "PackageCount": 7, "FileCount": 9},
            'changed 9 files of 7 packages: "a, b, c, d, e, ..."',
        ),
    ],
)
def test_what_became_of_a_file(fields: FieldMap, said: str) -> None:
    assert describe_deed(make(fields)) == f"{said}, by whom is not known"


def test_who_did_it_stands_before_and_how_behind() -> None:
    fields: FieldMap = {"Action": "modified", "TargetFilename": "/etc/passwd", "Changed": ("content",)}
    assert describe_deed(make(fields, known=True)) == (
        'root (login ann) changed "/etc/passwd" (content) with "/usr/bin/vim /etc/passwd" from bash'
    )


def test_the_document_names_the_file() -> None:
    document = alert_document(make({"Action": "deleted", "TargetFilename": "/etc/passwd"}))
    assert document["file"] == {"path": "/etc/passwd"}
    assert document["event"]["category"] == ["file"]  # type: ignore[index]


@given(
    st.dictionaries(
        st.sampled_from(("Action", "TargetFilename", "Mode", "PreviousMode", "Owner", "LinkTarget", "Type", "Package")),
        st.text(st.characters(codec=None)) | st.just(HOSTILE),
    )
)
def test_nothing_of_the_host_forges_a_line(fields: dict[str, str]) -> None:
    told: FieldMap = {
        **fields,
        "Changed": ("mode", "owner", "link_target", "type"),
        "Gained": (HOSTILE,),
        "PackageCount": 0,
    }
    line = alert_line(make(told))
    assert line == escape_controls(line)
