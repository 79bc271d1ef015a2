"""Files and folders that take the place of older ones: in one step, with nothing left behind."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from qsd.support import folders
from qsd.support.errors import QsdError
from qsd.support.files import atomic, temporary_name
from qsd.support.folders import replacing, restore


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for value in ("old", "new"):
        with replacing(out) as folder:
            (folder / "a").write_text(value)
            if value == "old":
                (folder / "b").write_text(value)
    assert _names(out) == ["a"]
    assert (out / "a").read_text() == "new"
    assert _names(tmp_path) == ["out"]


def test_after_an_error_the_old_folder_stands(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with replacing(out) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(out) as folder:
        (folder / "a").write_text("new")
        raise ZeroDivisionError
    assert (out / "a").read_text() == "old"
    assert _names(tmp_path) == ["out"]


def test_what_is_not_part_of_the_result_is_carried_over(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "logs" / "deep").mkdir(parents=True)
    (out / "logs" / "deep" / "x").write_text("log")
    (out / "notes.txt").write_text("mine")
    (out / "link").symlink_to("notes.txt")
    (out / "member-0").write_text("stale")
    with replacing(out, lambda name: name.startswith("member")) as folder:
        (folder / "result").write_text("new")
    assert _names(out) == ["link", "logs", "notes.txt", "result"]
    assert (out / "logs" / "deep" / "x").read_text() == "log"
    assert (out / "link").is_symlink()


def test_where_folders_cannot_be_exchanged_they_are_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    test_a_folder_is_replaced_whole(tmp_path)


def test_a_symbolic_link_to_a_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with replacing(tmp_path / "link") as folder:
        (folder / "a").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert _names(tmp_path / "real") == ["a"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(QsdError, match="out: is a file"), replacing(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def _die_with_leftovers(folder: Path) -> None:
    with replacing(folder / "out") as new, atomic(folder / "file") as temporary:
        (new / "a").write_text("half")
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def _killed(folder: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_die_with_leftovers, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_what_a_kill_leaves_is_swept_by_the_next_run(tmp_path: Path) -> None:
    _killed(tmp_path)
    assert len(_names(tmp_path)) == 2
    alive = temporary_name(tmp_path / "file")
    alive.write_text("of this very process")
    with replacing(tmp_path / "out") as new, atomic(tmp_path / "file") as temporary:
        (new / "a").write_text("whole")
        temporary.write_text("whole")
    assert _names(tmp_path) == sorted([alive.name, "file", "out"])
    assert (tmp_path / "file").read_text() == "whole"


def test_what_was_moved_away_by_a_killed_process_comes_back(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    of_this = temporary_name(tmp_path / "out").name
    moved = tmp_path / (of_this.replace(f"-{os.getpid()}-", f"-{process.pid}-") + ".old")
    moved.mkdir()
    (moved / "a").write_text("old")
    restore(tmp_path / "out")
    assert (tmp_path / "out" / "a").read_text() == "old"
    assert _names(tmp_path) == ["out"]


def test_a_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    planted = tmp_path / ".file.planted.tmp"
    planted.symlink_to(victim)
    monkeypatch.setattr("qsd.support.files.temporary_name", lambda path: planted)
    with pytest.raises(FileExistsError), atomic(tmp_path / "file"):
        pass
    assert victim.read_text() == "precious"
