"""pacman's database: what is read of it, what is refused, and that nothing in it does harm."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pacman import install, quote
from watchdogd import pacman
from watchdogd.file_states import FileState
from watchdogd.pacman import Installed, Recorded, list_installed, parse_mtree, parse_path

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = b"a program"
SHA256, MD5 = hashlib.sha256(CONTENT), hashlib.md5(CONTENT)
TIME_S = 1_700_000_000
MTREE = f"""\
#mtree
/set type=file uid=0 gid=0 mode=644
./.PKGINFO time={TIME_S}.0 size=256 sha256digest={"0" * 64}
./usr time={TIME_S}.0 mode=755 type=dir
./usr/bin/tool time={TIME_S}.5 mode=4755 gid=7 size=9 md5digest={MD5.hexdigest()} sha256digest={SHA256.hexdigest()}
./usr/bin/a\\040link time={TIME_S}.0 mode=777 type=link link=to\\040ol
./etc/tool.conf time={TIME_S}.0 size=4 md5digest={MD5.hexdigest()}
"""
TOOL, LINK, CONF = b"/usr/bin/tool", b"/usr/bin/a link", b"/etc/tool.conf"


@pytest.fixture
def package(tmp_path: Path) -> Installed:
    files = "usr/\nusr/bin/\nusr/bin/tool\nusr/bin/a link\netc/tool.conf\n"
    install(tmp_path, "a-tool-1:2.0-3", MTREE, files=files, backup=f"etc/tool.conf\t{MD5.hexdigest()}\n")
    (one,) = list_installed(tmp_path)
    return one


def test_a_package_says_what_its_files_are_like(package: Installed) -> None:
    assert (package.name, package.version) == ("a-tool", "1:2.0-3")
    assert list(package.list_paths()) == [b"/usr", b"/usr/bin", TOOL, LINK, CONF]
    assert list(package.list_backups()) == [CONF]
    held, records = package.read({TOOL, LINK, CONF, b"/usr/bin/other"})
    assert held == {TOOL, LINK, CONF}
    assert records == {
        TOOL: Recorded("file", 0o4755, 0, 7, TIME_S, SHA256.digest(), MD5.digest()),
        LINK: Recorded("link", 0o777, 0, 0, TIME_S, link_target=b"to ol"),
        CONF: Recorded("file", 0o644, 0, 0, TIME_S, md5=MD5.digest()),
    }
    assert set(package.read_all()) == {b"/usr", TOOL, LINK, CONF}
    assert [package.holds([path]) for path in (TOOL, b"/bin/tool", b"/usr/bin/too", b"/sr/bin/tool")] == [True] + [
        False
    ] * 3
    assert package.holds([b"/bin/tool", TOOL])


def test_a_long_list_is_searched_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "many-1-1", files="".join(f"usr/share/many/file{number}\n" for number in range(200)))
    (one,) = list_installed(tmp_path)
    for size in range(24, 64):
        monkeypatch.setattr(pacman, "_CHUNK", size)
        assert all(one.holds([b"/usr/share/many/file%d" % number]) for number in range(200))
        assert not one.holds([b"/usr/share/many/file200"])


def test_a_package_that_is_being_installed_has_only_its_mtree(package: Installed) -> None:
    (package.folder / "files").unlink()
    held, records = package.read({TOOL, b"/usr/bin/other"})
    assert (held, set(records)) == ({TOOL}, {TOOL})
    (package.folder / "mtree").unlink()
    with pytest.raises(FileNotFoundError):
        package.read({TOOL})


def test_a_package_that_was_built_without_mtree(tmp_path: Path) -> None:
    install(tmp_path, "old-1-1", files="usr/bin/tool\n")
    (one,) = list_installed(tmp_path)
    assert one.read({TOOL}) == ({TOOL}, {})


def test_what_is_no_package(tmp_path: Path) -> None:
    assert list(list_installed(tmp_path)) == []
    install(tmp_path, "good-1.0-1")
    for name in ("ALPM_DB_VERSION", "no-version", ".hidden-1-1", "-dash-1-1", "a b-1-1", "a-1-1\nb", "a-1-\udcff 1"):
        (tmp_path / pacman.LOCAL / name).mkdir()
    (tmp_path / pacman.LOCAL / "file-1-1").touch()
    (tmp_path / pacman.LOCAL / "link-1-1").symlink_to("good-1.0-1")
    assert [one.name for one in list_installed(tmp_path)] == ["good"]


@pytest.mark.parametrize(
    ("mtree", "said"),
    [
        ("./usr/bin/tool mode=9", "mtree:1: "),
        ("#\n./usr/bin/tool mode=-1", "mtree:2: a number that is none"),
        ("./usr/bin/tool mode=17777", "too large"),
        ("./usr/bin/tool size=1 uid=" + "9" * 40, "a number that is none"),
        ("./usr/bin/tool sha256digest=00", "a digest of a length"),
        ("./usr/bin/tool sha256digest=xx", "non-hexadecimal"),
        ("./usr/bin/tool md5digest=\xff", "ascii"),
        ("./usr/bin/tool type=door", "a type that is none"),
        ("./usr/bin/tool type=link link=\\9", "a backslash"),
        ("./usr/\\056\\056/etc/passwd", "leads elsewhere"),
        ("./usr//bin", "leads elsewhere"),
        ("./a\\000b", "leads elsewhere"),
        ("/etc/passwd", "does not begin with"),
        ("..", "does not begin with"),
        pytest.param("./" + "x" * (1 << 17), "a line that is too long", id="a line that is too long"),
    ],
)
def test_a_damaged_mtree(tmp_path: Path, mtree: str, said: str) -> None:
    refuse(tmp_path, gzip.compress(mtree.encode("latin-1")), said)


def test_an_mtree_that_is_no_whole_gzip(tmp_path: Path) -> None:
    refuse(tmp_path / "other", b"no gzip", "incorrect header")
    refuse(tmp_path / "empty", b"", "ends too early")
    refuse(tmp_path / "torn", gzip.compress(MTREE.encode())[:-20], "ends too early")


def refuse(root: Path, mtree: bytes, said: str) -> None:
    install(root, "tool-1-1", mtree, files="usr/bin/tool\n")
    (one,) = list_installed(root)
    with pytest.raises(ValueError, match=said):
        one.read({TOOL})


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacman, "MTREE_BYTES", 1 << 20)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    install(tmp_path, "bomb-1-1", packer.compress(b"./x\n" * (1 << 19)) + packer.flush(), files="usr/bin/tool\n")
    (one,) = list_installed(tmp_path)
    with pytest.raises(ValueError, match="unpacked more than 1 MiB"):
        one.read({TOOL})


def test_files_that_are_too_large_or_none(package: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(pacman, "PACKED_BYTES", 16)
        with pytest.raises(ValueError, match="mtree: no regular file, or larger"):
            package.read({TOOL})
    with (package.folder / "files").open("ab") as file:
        file.write(b"%FILES%\n" + b"x" * pacman.LINE_BYTES)
    with pytest.raises(ValueError, match="files: longer than pacman writes it"):
        list(package.list_paths())
    (package.folder / "files").unlink()
    os.mkfifo(package.folder / "files")
    for ask in (lambda: list(package.list_paths()), lambda: package.holds([TOOL]), lambda: package.read({TOOL})):
        with pytest.raises(ValueError, match="files: no regular file"):
            ask()
    (package.folder / "files").unlink()
    (package.folder / "files").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        list(package.list_paths())


NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: name not in {b".", b".."} and not {*b"\0/"} & {*name})


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_paths_survive_as_bsdtar_escapes_them(names: list[bytes]) -> None:
    path = b"/" + b"/".join(names)
    assert parse_path(quote(b"." + path)) == path
    (found,) = parse_mtree([b"/set type=link", quote(b"." + path) + b" link=" + quote(path)], {path})
    assert found == (path, Recorded("link", link_target=path))


WORDS = st.sampled_from(
    [
        *rb"/set ./usr ./a\040b . .. # \ type= file dir mode= 0755 9 uid= time= 1.5 -1 md5= link= \377 \400 =".split(),
        b"sha256digest=" + b"ab" * 32,
        b"ab" * 16,
    ]
)


@given(
    st.lists(st.lists(st.one_of(WORDS, st.just(b" "), st.binary(max_size=8)), max_size=10).map(b"".join), max_size=6)
)
def test_any_text_is_records_or_a_value_error(lines: list[bytes]) -> None:
    try:
        found = dict(parse_mtree(lines))
    except ValueError as error:
        assert str(error).startswith("mtree:")  # noqa: PT017 - not that it is raised, but what it says
        return
    for path in found:
        assert path.startswith(b"/")
        assert not {b"..", b".", b""} & set(path[1:].split(b"/"))


NOW = FileState("file", 0o755, 0, 0, 9, TIME_S * 10**9 + 5, 1, 1, 7, SHA256.digest())
BEFORE = msgspec.structs.replace(NOW, inode=6, sha256=b"o" * 32)
FILE = Recorded("file", 0o755, 0, 0, TIME_S, SHA256.digest(), MD5.digest())


def replace(state: FileState, **changes: object) -> FileState:
    return msgspec.structs.replace(state, **changes)


@pytest.mark.parametrize(
    ("now", "before", "answer"),
    [
        (NOW, BEFORE, True),
        (NOW, None, True),
        (NOW, replace(BEFORE, inode=7), True),  # the new file got the old one's inode
        (replace(NOW, mtime_ns=TIME_S * 10**9 - 1), replace(BEFORE, inode=7), False),  # written in place
        (replace(NOW, mtime_ns=1), BEFORE, True),
        (replace(NOW, sha256=b"x" * 32), BEFORE, False),
        (replace(NOW, sha256=None), BEFORE, False),
        (replace(NOW, mode=0o777), BEFORE, False),
        (replace(NOW, mode=0o700), replace(BEFORE, mode=0o700), True),  # its installation script sees to that each time
        (replace(NOW, uid=5), BEFORE, False),
        (replace(NOW, gid=5), None, False),
        (replace(NOW, gid=5), replace(BEFORE, gid=5), True),
        (replace(NOW, kind="link", link_target=b"x"), BEFORE, False),
    ],
)
def test_what_the_package_brought(now: FileState, before: FileState | None, answer: bool) -> None:  # noqa: FBT001 - as asked
    assert FILE.describes(now, before, b"other") is answer


def test_older_packages_have_md5_alone_and_some_nothing() -> None:
    old, bare = msgspec.structs.replace(FILE, sha256=None), Recorded("file", 0o755, 0, 0, TIME_S)
    assert old.describes(NOW, None, MD5.digest())
    assert not old.describes(NOW, None, b"x" * 16)
    assert not old.describes(NOW, None, None)
    assert not bare.describes(NOW, None, None)


def test_links_by_their_target_and_folders_by_their_mode() -> None:
    link, folder = Recorded("link", 0o777, 0, 0, TIME_S, link_target=b"tool"), Recorded("dir", 0o755, 0, 0, TIME_S)
    folder = msgspec.structs.replace(folder, kind="folder")
    now = replace(NOW, kind="link", mode=0o777, sha256=None, link_target=b"tool")
    assert link.describes(now, None, None)
    assert not link.describes(replace(now, link_target=b"evil"), None, None)
    now = replace(NOW, kind="folder", sha256=None)
    assert folder.describes(now, None, None)
    assert not folder.describes(replace(now, mode=0o777), None, None)
    assert not folder.describes(now, replace(now, mode=0o700), None)  # pacman leaves folders as they are


ASK = """\
import sys
from pathlib import Path
from watchdogd.collect.package_changes import Change, PackageChanges
from watchdogd.enrich.ownership import PackageOwners
root = Path(sys.argv[1])
PackageChanges(root).explain([Change(b"/usr/bin/tool", None, None, "a-tool")])
PackageOwners(root).describe("/usr/bin/tool")
print("watchdogd.pacman" in sys.modules)
"""


def test_it_takes_no_memory_where_there_is_no_pacman(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/tool").touch()
    said = []
    for _ in range(2):
        command = [sys.executable, "-c", ASK, str(tmp_path)]
        said.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
        (tmp_path / pacman.LOCAL).mkdir(parents=True, exist_ok=True)
    assert said == ["False", "True"]
