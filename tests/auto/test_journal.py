"""The run's folder: a journal that survives a cut, models under their hashes, one writer at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import builders

from onnx_condense import InputError, UsageError
from onnx_condense.auto.folder import Folder

MODEL = builders.mlp((4, 6, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "work")


def test_lines_come_back_in_order(folder: Folder) -> None:
    with folder.opened():
        lines = [folder.append({"event": "trained", "score": x}) for x in (0.1, 1 / 3)]
    assert folder.events() == lines
    assert all(line["at"] > 0 for line in lines)


@pytest.mark.parametrize("rest", [b'{"event": "trai', b'{"event": "trained"}', b"\0\0\0\0", b"\0\0\n", b'{"a": 1}\n'])
def test_a_last_line_that_is_cut_short_does_not_count(folder: Folder, rest: bytes) -> None:
    """A line counts once its newline is there; a power cut may leave zeros."""
    with folder.opened():
        first = folder.append({"event": "begin"})
    journal = folder.path / "journal.jsonl"
    journal.write_bytes(journal.read_bytes() + rest)
    assert folder.events() == [first]
    with folder.opened():
        second = folder.append({"event": "evaluated"})
    assert folder.events() == [first, second]


def test_a_journal_of_one_line_cut_short_begins_anew(folder: Folder) -> None:
    with folder.opened():
        pass
    (folder.path / "journal.jsonl").write_bytes(b'{"event": "beg')
    assert folder.events() == []
    with folder.opened():
        assert (folder.path / "journal.jsonl").read_bytes() == b""


def test_a_damaged_line_inside_is_named(folder: Folder) -> None:
    with folder.opened():
        for _ in range(3):
            folder.append({"event": "trained"})
    journal = folder.path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + b"nonsense\n" + lines[2])
    with pytest.raises(InputError, match="line 2"):
        folder.events()


def test_models_are_kept_under_their_hash(folder: Folder) -> None:
    with folder.opened():
        digest = folder.put(MODEL)
        assert folder.put(MODEL) == digest
        assert folder.get(digest) == MODEL
        (path,) = (folder.path / "models").iterdir()
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(InputError, match="is damaged"):
            folder.get(digest)
        path.unlink()
        with pytest.raises(InputError, match="is missing"):
            folder.get(digest)


def test_a_full_disk_is_one_line_that_says_what_to_do(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with folder.opened():
        digest = folder.put(MODEL)
        monkeypatch.setattr("os.fsync", full)
        for write in (
            lambda: folder.put(builders.mlp((4, 5, 3))),
            lambda: folder.publish(digest),
            lambda: folder.append({"event": "begin"}),
        ):
            with pytest.raises(InputError, match=r"No space left on device\): make room and run the command again"):
                write()


def test_pruning_keeps_what_it_is_told(folder: Folder) -> None:
    with folder.opened():
        kept, gone = folder.put(MODEL), folder.put(builders.mlp((4, 5, 3)))
        folder.prune({kept})
        assert folder.get(kept) == MODEL
        with pytest.raises(InputError):
            folder.get(gone)


def test_the_published_model_is_a_copy(folder: Folder) -> None:
    with folder.opened():
        digest = folder.put(MODEL)
        folder.publish(digest)
    assert (folder.path / "result.onnx").read_bytes() == folder.bytes_of(digest)


def test_what_an_interrupted_run_left_half_made_goes(folder: Folder) -> None:
    with folder.opened():
        pass
    left = [folder.path / ".result.onnx.x1.part", folder.path / "models" / ".a.onnx.x2.part"]
    left.append(folder.scratch / "tmpabc" / "in.onnx")
    left[-1].parent.mkdir()
    for path in left:
        path.write_bytes(b"half")
    with folder.opened():
        assert not any(path.exists() for path in left)


def test_one_run_at_a_time(folder: Folder) -> None:
    assert not folder.busy()
    with folder.opened():
        assert folder.busy()
        with pytest.raises(UsageError, match="another run is at work"), Folder(folder.path).opened():
            pass
    assert not folder.busy()


def test_a_folder_with_other_files_is_left_alone(folder: Folder) -> None:
    folder.path.mkdir()
    (folder.path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match=r"thesis\.tex"), folder.opened():
        pass
    assert [p.name for p in folder.path.iterdir()] == ["thesis.tex"]


def test_a_run_does_not_mind_files_beside_it(folder: Folder) -> None:
    with folder.opened():
        folder.append({"event": "begin"})
    (folder.path / "figure.svg").write_text("")
    with folder.opened():
        assert (folder.path / "figure.svg").exists()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("")
    with pytest.raises(UsageError, match="--work"), Folder(tmp_path / "work").opened():
        pass


def test_a_folder_that_cannot_be_written_is_one_line(folder: Folder) -> None:
    (folder.path / "lock").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"cannot be written .*: check whose it is"), folder.opened():
        pass
