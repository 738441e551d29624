"""Logons, accounts and sudo as their programs report them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.decode.conftest import decode_lines

if TYPE_CHECKING:
    from watchdogd.entities import View

UNSET = "auid=4294967295 ses=4294967295"


def report(kind: str, text: str, head: str = "uid=0 auid=1000 ses=4", enriched: str = "") -> View:
    """The only view of a record that a program sent."""
    line = f"type={kind} msg=audit(1700000000.123:77): pid=100 {head} msg='{text}'{enriched}"
    (event,) = decode_lines([line.encode()])
    (view,) = event.views
    return view


def login(what: str, where: str = "hostname=? addr=192.0.2.9 terminal=ssh", result: str = "success") -> View:
    return report("USER_LOGIN", f'op=login {what} exe="/usr/sbin/sshd" {where} res={result}')


@pytest.mark.parametrize(
    ("kind", "text", "outcome", "fields"),
    [
        (
            "USER_AUTH",
            'op=PAM:authentication grantors=? acct="bob" exe="/usr/bin/su" terminal=pts/0 res=failed',
            "failure",
            {"User": "bob", "SubjectUser": "0", "Operation": "PAM:authentication", "Terminal": "pts/0"},
        ),
        (
            "USER_START",
            'op=PAM:session_open grantors=pam_unix acct="root" exe="/usr/bin/su" hostname=h res=success',
            "success",
            {"User": "root", "SourceHostname": "h", "Operation": "PAM:session_open"},
        ),
        (
            "CRED_ACQ",
            'op=PAM:setcred grantors=pam_unix acct="root" exe="/usr/sbin/cron" terminal=cron res=success',
            "success",
            {"User": "root", "Terminal": "cron"},
        ),
        (
            "USER_ERR",
            'op=PAM:bad_ident acct="?" exe="/usr/sbin/sshd" hostname=192.0.2.9 addr=192.0.2.9 terminal=ssh res=failed',
            "failure",
            {"User": "0", "SourceIp": "192.0.2.9", "SourceHostname": "192.0.2.9"},
        ),
        (
            "USER_LOGIN",
            'op=login id=0 exe="/usr/sbin/sshd" hostname=? addr=::ffff:192.0.2.9 terminal=ssh res=success',
            "success",
            {"User": "0", "SourceIp": "192.0.2.9"},
        ),
        (
            "USER_CMD",
            'cwd="/home/bob" cmd=636174202F6574632F736861646F77 exe="/usr/bin/sudo" terminal=pts/0 res=failed',
            "failure",
            {"CommandLine": "cat /etc/shadow", "CurrentDirectory": "/home/bob", "Image": "/usr/bin/sudo"},
        ),
        (
            "GRP_MGMT",
            'op=add-user-to-group grp="sudo" acct="eve" exe="/usr/sbin/usermod" hostname=h res=success',
            "success",
            {"User": "eve", "Operation": "add-user-to-group"},
        ),
    ],
)
def test_reports(kind: str, text: str, outcome: str, fields: dict[str, str]) -> None:
    view = report(kind, text)
    assert (view.category, view.action, view.outcome) == ("authentication", kind.lower(), outcome)
    assert {name: view.fields.get(name) for name in fields} == fields


def test_an_account_by_number_is_that_number() -> None:
    """sshd says `id=1000` where it knows the account: digits, not hex."""
    assert login("id=1000").fields["User"] == "1000"
    assert report("ADD_USER", 'op=add-user id=1005 exe="/usr/sbin/useradd" res=success').fields["User"] == "1005"


def test_an_enriched_account_has_its_name() -> None:
    enriched = '\x1dUID="root" AUID="bob" ID="bob"'
    view = report("USER_LOGIN", 'op=login id=1000 exe="/usr/sbin/sshd" res=success', enriched=enriched)
    assert (view.fields["User"], view.fields["SubjectUser"], view.outcome) == ("bob", "root", "success")


@pytest.mark.parametrize("enriched", ["", '\x1dUID="root" AUID="unset" ID="unset"'])
def test_an_account_that_is_not_set_is_nobodys(enriched: str) -> None:
    view = report("USER_LOGIN", 'op=login id=4294967295 exe="/usr/sbin/sshd" res=failed', f"uid=0 {UNSET}", enriched)
    assert view.fields["User"] == ("root" if enriched else "0")


@pytest.mark.parametrize("account", ["(unknown)", "(unknown user)", "1001", "é"])
def test_what_was_typed_as_an_account_is_kept(account: str) -> None:
    written = f'"{account}"' if account in {"(unknown)", "1001"} else account.encode().hex().upper()
    assert login(f"acct={written}", result="failed").fields["User"] == account


def test_names_of_hosts_and_terminals_are_never_hex() -> None:
    view = login('acct="bob"', "hostname=DC01 addr=2001:db8::1 terminal=AB")
    assert (view.fields["SourceHostname"], view.fields["SourceIp"], view.fields["Terminal"]) == (
        "DC01",
        "2001:db8::1",
        "AB",
    )
    started = report("SERVICE_START", 'unit=CAFE comm="systemd" exe="/usr/lib/systemd/systemd" res=success')
    assert (started.category, started.fields["Unit"]) == ("service", "CAFE")


@pytest.mark.parametrize("kind", ["USER_TTY", "USER_DEVICE", "USER_SELINUX_ERR", "USER_AVC", "SYSTEM_BOOT"])
def test_not_everything_that_a_program_reports_is_about_an_account(kind: str) -> None:
    assert report(kind, 'op=x exe="/usr/bin/x" res=success').category == "audit_record"


def test_the_kernels_own_login_record() -> None:
    line = (
        b"type=LOGIN msg=audit(1.001:16): pid=100 uid=0 old-auid=4294967295 auid=1000 tty=(none) old-ses=4294967295 "
        b"ses=5 res=1"
    )
    (view,) = decode_lines([line])[0].views
    assert (view.category, view.action, view.outcome) == ("authentication", "login", "success")
    assert (view.fields["User"], view.fields["SubjectUser"]) == ("1000", "0")
