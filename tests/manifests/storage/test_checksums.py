"""Checksums of caches: no changed byte, no other file, no half-written one is taken for what was written."""

import random
from pathlib import Path

import pytest

from cusa.errors import DataError
from cusa.manifests.storage import checksums, store

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "cache/rows.npy"
    with checksums.checked_file(path, made_from="a teacher") as temporary:
        temporary.write_bytes(CONTENT)
    return path


def test_checksum__equals_published_values(tmp_path: Path) -> None:
    # XXH3's own test vectors (xxHash 0.8, seed 0): of nothing, and of one "a".
    path = tmp_path / "x"
    path.write_bytes(b"")
    assert checksums.checksum(path) == "99aa06d3014798d86001c324468d497f"
    path.write_bytes(b"a")
    assert checksums.checksum(path) == "a96faf705af16834e6c632b61e964e1f"


def test_checksum__does_not_depend_on_how_a_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(CONTENT)
    whole = checksums.checksum(path)
    monkeypatch.setattr(checksums, "_CHUNK", 1000)
    assert checksums.checksum(path) == whole


def test_is_intact__every_flipped_byte_is_seen(cache: Path) -> None:
    assert checksums.is_intact(cache, made_from="a teacher")
    drawn = random.Random(0)
    for _ in range(100):
        place, bit = drawn.randrange(len(CONTENT)), 1 << drawn.randrange(8)
        changed = bytearray(CONTENT)
        changed[place] ^= bit
        cache.write_bytes(changed)
        assert not checksums.is_intact(cache, made_from="a teacher"), place
    cache.write_bytes(CONTENT)
    assert checksums.is_intact(cache, made_from="a teacher")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.write_bytes(CONTENT[: len(CONTENT) // 2] + bytes(len(CONTENT) // 2)), "xxh3"),
        (lambda path: path.write_bytes(CONTENT[256:] + CONTENT[:256][::-1]), "xxh3"),
        (lambda path: path.write_bytes(CONTENT[:-1]), "bytes instead of 10240"),
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.with_name("rows.npy.sum.json").unlink(), "checksum is missing"),
        (lambda path: path.with_name("rows.npy.sum.json").write_text("[" * 100_000), "checksum is missing"),
        (lambda path: path.with_name("rows.npy.sum.json").write_text("[]"), "checksum is missing"),
    ],
)
def test_problem__says_what_is_wrong(cache: Path, change: object, words: str) -> None:
    assert checksums.problem(cache) == ""
    change(cache)  # type: ignore[operator]
    assert words in checksums.problem(cache)
    assert not checksums.is_intact(cache, made_from="a teacher")


def test_is_intact__another_cache_in_its_place(cache: Path) -> None:
    other = cache.with_name("other.npy")
    with checksums.checked_file(other, made_from="another teacher") as temporary:
        temporary.write_bytes(CONTENT[::-1])
    other.replace(cache)
    other.with_name("other.npy.sum.json").replace(cache.with_name("rows.npy.sum.json"))
    assert checksums.problem(cache) == ""
    assert checksums.problem(cache, made_from="a teacher") == "it was built from something else"


def test_checked_file__a_failed_write_leaves_the_old_cache(cache: Path) -> None:
    with pytest.raises(RuntimeError), checksums.checked_file(cache, made_from="a teacher") as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert cache.read_bytes() == CONTENT
    assert checksums.is_intact(cache, made_from="a teacher")


def test_caches_below_and_remove(cache: Path) -> None:
    assert checksums.caches_below(cache.parent.parent) == [cache]
    checksums.remove(cache)
    assert list(cache.parent.iterdir()) == []
    checksums.remove(cache)


def test_checked_file__what_stands_beside_it_and_what_a_kill_leaves(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = cache.with_name("rows.npy.sum.json")
    content = store.read_json(beside)
    assert content == {"bytes": len(CONTENT), "made_from": "a teacher", "xxh3_128": checksums.checksum(cache)}
    beside.unlink()
    checksums.write_checksum(cache, made_from="a teacher")
    assert store.read_json(beside) == content
    assert checksums.problem(cache, made_from="another") == "it was built from something else"

    def killed(path: Path, value: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "write_json", killed)
    other = cache.with_name("other.npy")
    with pytest.raises(KeyboardInterrupt), checksums.checked_file(other, made_from="x") as temporary:
        temporary.write_bytes(b"1")
    assert other.is_file()
    assert checksums.problem(other) == "its checksum is missing or cannot be read"


@pytest.mark.parametrize("name", ["bytes", "made_from", "xxh3_128"])
def test_problem__a_checksum_file_that_lacks_anything_is_none(cache: Path, name: str) -> None:
    beside = cache.with_name("rows.npy.sum.json")
    store.write_json(beside, {key: value for key, value in store.read_json(beside).items() if key != name})
    assert checksums.problem(cache) == "its checksum is missing or cannot be read"


def test_problem__names_both_numbers(cache: Path) -> None:
    whole = checksums.checksum(cache)
    cache.write_bytes(CONTENT[::-1])
    assert checksums.problem(cache) == f"xxh3 {checksums.checksum(cache)[:12]} instead of {whole[:12]}"
    cache.write_bytes(b"123")
    assert checksums.problem(cache) == f"3 bytes instead of {len(CONTENT)}"


def test_write_in_first__the_first_place_that_can_be_written(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("a", "b", "c")]
    tried: list[Path] = []

    def write(path: Path) -> None:
        tried.append(path)
        if path.name in failing:
            raise failing[path.name]
        path.touch()

    failing: dict[str, Exception] = {"a": DataError("full"), "b": OSError("gone")}
    assert checksums.write_in_first(places, write) == places[2]
    assert tried == places
    failing = {"a": OSError("gone"), "b": DataError("full"), "c": DataError("the last")}
    tried.clear()
    with pytest.raises(DataError, match="the last"):
        checksums.write_in_first(places, write)
    assert tried == places, "each once"
    failing = {}
    tried.clear()
    assert checksums.write_in_first(places, write) == places[0]
    assert tried == places[:1]
    assert checksums.write_in_first(places[:1], write) == places[0]
    failing = {"a": ValueError("a fault of ours")}
    with pytest.raises(ValueError, match="fault of ours"):
        checksums.write_in_first(places, write)


def test_caches_below__sorted_and_those_that_are_gone_too(cache: Path) -> None:
    for name in ("z/b.npy", "a.npy"):
        with checksums.checked_file(cache.parent / name, made_from="x") as temporary:
            temporary.write_bytes(b"1")
    (cache.parent / "a.npy").unlink()
    (cache.parent / "plain.npy").touch()
    expected = [cache.parent / name for name in ("a.npy", "rows.npy", "z/b.npy")]
    assert checksums.caches_below(cache.parent) == expected
