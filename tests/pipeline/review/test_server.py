"""The review over HTTP: who is answered, what is served, and that no verdict is lost or doubled."""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cusa.errors import ConfigError, DataError, StaleError
from cusa.manifests import schemas
from cusa.manifests.judgements import verdicts
from cusa.manifests.judgements.verdicts import Journal
from cusa.manifests.samples import Split
from cusa.manifests.storage import store
from cusa.manifests.storage.paths import place
from cusa.pipeline import audit
from cusa.pipeline.config import AuditConfig
from cusa.pipeline.review import room as room_module
from cusa.pipeline.review import server
from cusa.pipeline.review.queue import Candidates
from cusa.pipeline.review.room import Room
from cusa.pipeline.sql.database import connect
from tests.manifests.judgements.test_verdicts import make
from tests.pipeline.review.served import Client, in_thread, make_audited, served


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    work = make_audited(tmp_path)
    opened = Room(Split(work, "train"))
    yield opened
    opened.close()


@pytest.fixture
def client(room: Room) -> Iterator[Client]:
    with in_thread(room) as port:
        yield Client(port)


def test_page__is_one_file_that_asks_nobody_else(client: Client) -> None:
    status, headers, body = client.ask("GET", "/")
    assert status == 200
    page = body.decode()
    assert "{{" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe-inline" not in policy
    nonce = policy.partition("script-src 'nonce-")[2].partition("'")[0]
    assert page.count(f'nonce="{nonce}"') == 3
    assert client.ask("GET", "/")[1]["content-security-policy"] != policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"


def test_next__shows_the_candidate_as_the_tables_have_it(client: Client, room: Room) -> None:
    split = room.split
    rows = pq.read_table(room.candidates.path).to_pylist()
    best = max(rows, key=lambda row: row["score"])["score"]
    shown = client.next()["candidate"]
    row = next(r for r in rows if (r["image_key"], r["caption_key"]) == (shown["image_key"], shown["caption_key"]))
    assert row["score"] == best
    assert shown["numbers"]["score"] == pytest.approx(row["score"])
    assert shown["numbers"]["text_rank"] == row["text_rank"]
    assert shown["numbers"]["p_positive"] is None
    captions = {r["caption_key"]: r for r in split.captions.to_pylist()}
    assert shown["caption"] == captions[shown["caption_key"]]["text"]
    for name, key in (("own_captions", "image_key"), ("siblings", "owner_image_key")):
        expected = [r["text"] for r in captions.values() if r["key"] == shown[key] and r["text"] != shown["caption"]]
        assert shown[name] == expected
    for key in (shown["image_key"], shown["owner_image_key"]):
        status, headers, body = client.image(key)
        assert (status, headers["content-type"]) == (200, "image/jpeg")
        assert body == split.image_bytes(split.image_keys.index(key))


def test_judge__is_on_the_disk_before_the_next_candidate(client: Client, room: Room) -> None:
    first = client.next()["candidate"]
    answer = client.judge(first, "match", "verdict-0001")
    (row,) = verdicts.read(room.split.folder / "audit")
    assert (row.image_key, row.caption_key, row.verdict) == (first["image_key"], first["caption_key"], "match")
    assert row.reviewer == "ada"
    assert row.score == first["numbers"]["score"]
    assert row.candidates_sha256 == room.candidates.sha256
    second = answer["candidate"]
    assert second["caption_key"] != first["caption_key"] or second["image_key"] != first["image_key"]
    assert answer["progress"]["done"] == answer["progress"]["mine"] == 1
    again = client.judge(first, "match", "verdict-0001")
    assert again["progress"]["mine"] == 1
    assert len(verdicts.read(room.split.folder / "audit")) == 1


def test_judge__undo_brings_the_candidate_back(client: Client, room: Room) -> None:
    first = client.next()["candidate"]
    client.judge(first, "match", "verdict-0001")
    answer = client.judge(first, "undo", "verdict-0002", undoes="verdict-0001")
    assert answer["candidate"]["caption_key"] == first["caption_key"]
    assert answer["candidate"]["image_key"] == first["image_key"]
    assert answer["progress"]["done"] == 0
    assert answer["history"] == []
    status, refused = client.post(
        image_key=first["image_key"],
        caption_key=first["caption_key"],
        verdict="undo",
        undoes="verdict-0001",
        id="verdict-0003",
    )
    assert status == 400
    assert "already" in refused["error"]


def test_judge__refuses_what_is_no_verdict(client: Client, room: Room) -> None:
    first = client.next()["candidate"]
    pair = {"image_key": first["image_key"], "caption_key": first["caption_key"]}
    for fields, word in (
        ({**pair, "verdict": "perhaps", "id": "verdict-0001"}, "perhaps"),
        ({**pair, "verdict": "match", "id": "x"}, "id"),
        ({**pair, "verdict": "match"}, "no verdict"),
        ({**pair, "verdict": ["match"], "id": "verdict-0001"}, "no verdict"),
        ({**pair, "caption_key": "mini/none#0", "verdict": "match", "id": "verdict-0001"}, "no candidate"),
        ({**pair, "reviewer": "", "verdict": "match", "id": "verdict-0001"}, "reviewer"),
    ):
        status, answer = client.post(**fields)
        assert status == 400
        assert word in answer["error"]
    headers = {"Content-Type": "application/json"}
    half = json.dumps({**pair, "verdict": "match", "id": "verdict-0001", "reviewer": "\ud800", "tab": "t"}).encode()
    for body in (
        b"{",
        b"[" * 16_000,
        b'{"a":' * 3000,
        b"9" * 10_000,
        b"\xff\xfe",
        b"null",
        b"[]",
        half,
        half.replace(b"\\ud800", b"ada").replace(b'"t"', b'"\\udfff"'),
        half.replace(b"\\ud800", b"ada").replace(b'"match"', b'"\\udfff"'),
        half.replace(b"\\ud800", b"ada\\u0000"),
    ):
        status, _, answer = client.ask("POST", "/verdicts", body, headers)
        assert status == 400, (body[:80], answer)
        assert json.loads(answer)["error"]
    for query in ("where=%00", "where=%ED%A0%80", "reviewer=%ED%A0%80&tab=%00", "where=1%20%2B"):
        status, _, answer = client.ask("GET", f"/next?{query}")
        assert status in (200, 400), answer
        assert json.loads(answer)
    assert client.ask("GET", "/image?key=%ED%A0%80%00")[0] == 404
    assert client.ask("POST", "/verdicts", b"x" * 50_000, headers)[0] == 413
    assert client.ask("POST", "/verdicts", b"{}", {"Content-Type": "text/plain"})[0] == 415  # what a form can send
    assert client.ask("DELETE", "/verdicts")[0] == 405
    assert verdicts.read(room.split.folder / "audit") == []


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "localhost:9000", "Origin": "http://localhost:9000.evil.example"},
        {"Host": "localhost:9000", "Origin": "http://localhost:90001"},
        {"Host": "localhost:9000", "Origin": "http://localhost"},
        {"Host": "localhost:9000", "Origin": "http://localhost:9000/"},
        {"Host": "localhost:9000", "Origin": "evil http://localhost:9000"},
        {"Origin": "https://127.0.0.1"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": "evil.example:8321", "Origin": "http://evil.example:8321"},
        {"Host": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_guard__answers_no_other_origin(client: Client, room: Room, method: str, headers: dict[str, str]) -> None:
    shown = room.candidates.queue("").candidates[0]
    body = {"image_key": shown.image_key, "caption_key": shown.caption_key, "verdict": "match", "id": "verdict-0001"}
    fields = json.dumps({**body, "reviewer": "eve", "tab": "t"}).encode()
    path = "/verdicts" if method == "POST" else f"/image?key={shown.image_key}"
    status, answered, content = client.ask(method, path, fields, {"Content-Type": "application/json", **headers})
    assert status == 403
    assert b"error" in content
    assert "access-control-allow-origin" not in answered
    assert verdicts.read(room.split.folder / "audit") == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:9000", "[::1]:9000", "LOCALHOST"])
def test_guard__answers_this_machine(client: Client, host: str) -> None:
    # Another port: the page may come through a tunnel.
    assert client.ask("GET", "/", headers={"Host": host, "Origin": f"http://{host}"})[0] == 200


@pytest.mark.parametrize(
    "key",
    [
        "",
        "mini/none",
        "../../../../etc/passwd",
        "/etc/passwd",
        "samples.parquet",
        "mini/picture_0000\0.jpg",
        "%2e%2e%2f",
    ],
)
def test_image__serves_keys_of_the_split_alone(client: Client, key: str) -> None:
    status, _, body = client.image(key)
    assert status == 404
    assert b"has no image" in body


@pytest.mark.parametrize("path", ["/etc/passwd", "/../../etc/passwd", "/page.html", "/%2e%2e/secret", "//etc/passwd"])
def test_server__has_no_files(client: Client, path: str) -> None:
    assert client.ask("GET", path)[0] == 404


def test_next__filters_by_sql_and_points_at_a_mistake(client: Client, room: Room) -> None:
    rows = pq.read_table(room.candidates.path).to_pylist()
    few = [row for row in rows if row["image_rank"] == 1]
    assert client.next("image_rank = 1 -- the nearest")["progress"]["candidates"] == len(few)
    nothing = client.next("score > 7")
    assert nothing["candidate"] is None
    assert nothing["progress"]["asked"] == 0
    for bad, said in (
        ("scor > 1", "score"),
        ("score > 1; DROP TABLE x", "One statement|syntax"),
        ("1 = (SELECT count(*) FROM read_csv('/etc/passwd'))", "reads nothing but|cannot be read"),
        ("x" * 3000, "3000 letters"),
    ):
        status, _, body = client.ask("GET", f"/next?reviewer=ada&tab=t&where={bad.replace(' ', '%20')}")
        assert status == 400, body
        assert any(word in json.loads(body)["error"] for word in said.split("|")), body


def test_room__two_reviewers_and_two_tabs_never_look_at_the_same(room: Room) -> None:
    seen: list[tuple[str, tuple[str, str]]] = []
    lock = threading.Lock()
    number = iter(range(10**6))

    def work(port: int, reviewer: str, tab: str) -> None:
        client = Client(port, reviewer, tab)
        shown = client.next()["candidate"]
        while shown is not None:
            with lock:
                seen.append((reviewer, (shown["image_key"], shown["caption_key"])))
                own = f"verdict-{next(number):06d}"
            shown = client.judge(shown, "match", own)["candidate"]

    with in_thread(room) as port:
        threads = [
            threading.Thread(target=work, args=(port, who, tab))
            for who, tab in (("ada", "one"), ("ada", "two"), ("bob", "three"))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        left = Client(port, "eve", "four").next()
    every = [pair for _, pair in seen]
    assert len(every) == len(set(every)) == len(room.candidates.queue("").candidates)
    assert left["candidate"] is None
    rows = verdicts.read(room.split.folder / "audit")
    assert sorted((row.reviewer, (row.image_key, row.caption_key)) for row in rows) == sorted(seen)


def test_room__several_votes_show_agreement(tmp_path: Path) -> None:
    work = make_audited(tmp_path)
    room = Room(Split(work, "train"), votes=2)
    words = {"ada": ["match", "no match", "skip"], "bob": ["match", "related", "match"]}
    shown: dict[str, list[str]] = {}
    for reviewer, said in words.items():
        state = room.next(reviewer=reviewer, tab=reviewer)
        for number, word in enumerate(said):
            candidate = state["candidate"]
            shown.setdefault(reviewer, []).append(candidate["image_key"] + candidate["caption_key"])
            state = room.judge(
                id=f"{reviewer}-verdict-{number}",
                image_key=candidate["image_key"],
                caption_key=candidate["caption_key"],
                verdict=word,
                reviewer=reviewer,
                tab=reviewer,
            )
    assert shown["ada"] == shown["bob"]
    assert state["progress"]["shared"] == 2
    assert state["progress"]["unanimous"] == 1
    assert state["progress"]["done"] == 2
    assert state["progress"]["verdicts"] == {"match": 2, "disputed": 1}
    table = room.close()
    assert table is not None
    assert pq.read_table(table).num_rows == 6


def test_room__the_queue_begins_where_a_verdict_is_worth_most(tmp_path: Path) -> None:
    work = make_audited(tmp_path)
    path = work / "train/audit/candidates.parquet"
    table = pq.read_table(path)
    chances = [None if row % 5 == 0 else (row % 97) / 97 for row in range(table.num_rows)]
    worths = [None if chance is None else chance * (1 - chance) for chance in chances]
    for name, values in (("p_positive", chances), ("worth", worths)):
        column = table.column_names.index(name)
        table = table.set_column(column, name, pa.array(values, pa.float32()))
    pq.write_table(table, path)
    room = Room(Split(work, "train"))
    order = [one.p_positive for one in room.candidates.queue("").candidates]
    room.close()
    there = [chance for chance in order if chance is not None]
    assert order[: len(there)] == there
    assert len(there) < len(order)
    closest = [abs(chance - 0.5) for chance in there]
    assert closest == pytest.approx(sorted(closest), abs=1e-6)


def test_audit__the_next_one_skips_what_is_judged(tmp_path: Path) -> None:
    work = make_audited(tmp_path)
    split = Split(work, "train")
    room = Room(split)
    state = room.next(reviewer="ada", tab="a")
    said: dict[tuple[str, str], str] = {}
    for number, word in enumerate(("match", "no match", "skip", "related")):
        one = state["candidate"]
        said[one["image_key"], one["caption_key"]] = word
        pair = {"image_key": one["image_key"], "caption_key": one["caption_key"]}
        state = room.judge(id=f"verdict-{number:04d}", verdict=word, reviewer="ada", tab="a", **pair)
    room.close()
    done = audit.run(AuditConfig(neighbours=4, gallery=3), split=split)
    assert done.fresh
    assert any("3 candidates are judged already" in note for note in done.notes)
    page = (work / "train/audit/gallery.html").read_text()
    for row in pq.read_table(work / "train/audit/candidates.parquet").to_pylist():
        word = said.get((row["image_key"], row["caption_key"]))
        assert row["worth"] == (None if word in (None, "skip") else 0)
        if word not in (None, "skip"):
            shown = f"<code>{row['image_key']}</code><code>{row['caption_key']}</code>"
            assert shown not in page
    assert not audit.run(AuditConfig(neighbours=4, gallery=3), split=split).fresh


def test_sql__sees_verdicts_whose_server_was_killed(tmp_path: Path) -> None:
    work = make_audited(tmp_path)
    with Journal(work / "train/audit") as journal:
        journal.append(make(1))
    with connect(work, runs=()) as database:
        (row,) = database.run("SELECT image_key, verdict, reviewer FROM verdicts").rows
    assert row == ("mini/a", "match", "ada")


HOSTILE = [
    "<script>document.title='owned'</script><img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "كلب أسود \u202e evil.txt \u2066 a dog",
    "👩‍👩‍👧‍👦 🐕‍🦺 plays 🎾",
    "a dog " * 17_000,
    "'; DROP TABLE candidates; --",
]


def make_hostile(folder: Path) -> Path:
    """Make an audited work folder with captions that want to be more than words."""
    work = make_audited(folder)
    split = Split(work, "train")
    table = split.captions.to_pylist()
    for number, row in enumerate(table):
        row["text"] = HOSTILE[number % len(HOSTILE)]
    path = split.folder / "captions.parquet"
    store.write_table(path, pa.Table.from_pylist(table, schema=schemas.CAPTIONS))
    # The candidates were made from these words as far as the table can tell.
    candidates = split.folder / "audit/candidates.parquet"
    old = pq.read_table(candidates)
    fields = {**(old.schema.metadata or {}), b"split": Split(work, "train").digest.encode()}
    store.write_table(candidates, old.replace_schema_metadata(fields))
    return work


def test_next__hostile_captions_arrive_as_words(tmp_path: Path) -> None:
    room = Room(Split(make_hostile(tmp_path), "train"))
    seen: set[str] = set()
    with in_thread(room) as port:
        client = Client(port)
        state: dict[str, Any] = client.next()
        for number in range(12):
            seen.add(state["candidate"]["caption"])
            state = client.judge(state["candidate"], "skip", f"verdict-{number:04d}")
    room.close()
    assert len(seen) > 2
    assert seen <= set(HOSTILE)


def test_run__killed_loses_and_doubles_nothing(tmp_path: Path) -> None:
    work = make_audited(tmp_path)
    acknowledged: list[str] = []
    with served(work, "--as", "ada") as running:
        client = Client(running.port)
        state = client.next()
        number = 0

        def go_on() -> None:
            nonlocal state, number
            try:
                while True:
                    own = f"verdict-{number:05d}"
                    state = client.judge(state["candidate"], ("match", "no match", "skip")[number % 3], own)
                    acknowledged.append(own)
                    number += 1
            except (OSError, AssertionError, ConnectionError, TypeError):
                pass

        worker = threading.Thread(target=go_on)
        worker.start()
        while len(acknowledged) < 8 and worker.is_alive():
            worker.join(0.01)
        running.kill()
        worker.join()
    asked_again = state["candidate"]
    path = work / "train/audit/verdicts.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id": "verdict-torn')  # what a power cut may leave
    rows = verdicts.read(work / "train/audit")
    assert [row.id for row in rows][: len(acknowledged)] == acknowledged
    assert len(rows) - len(acknowledged) in (0, 1)
    with served(work) as running:
        client = Client(running.port)
        # The page asks again with the id that had no answer, twice for good measure.
        for _ in range(2):
            client.judge(asked_again, ("match", "no match", "skip")[number % 3], f"verdict-{number:05d}")
        assert client.next()["progress"]["mine"] == len(acknowledged) + 1
        code, out, err = running.stop()
    assert code == 0, err
    assert "verdict-torn" in out
    table = pq.read_table(work / "train/audit/verdicts.parquet")
    assert table["id"].to_pylist() == [*acknowledged, f"verdict-{number:05d}"]


def test_run__two_servers_on_one_folder(tmp_path: Path) -> None:
    work = make_audited(tmp_path)
    split = Split(work, "train")
    one, other = Room(split), Room(split)
    first = one.next(reviewer="ada", tab="a")["candidate"]
    fields = {"image_key": first["image_key"], "caption_key": first["caption_key"], "verdict": "match", "tab": "a"}
    one.judge(id="verdict-0001", reviewer="ada", **fields)
    state = other.judge(id="verdict-0001", reviewer="ada", **fields)
    assert state["progress"]["mine"] == 1
    assert other.next(reviewer="bob", tab="b")["candidate"]["caption_key"] != first["caption_key"] or (
        other.next(reviewer="bob", tab="b")["candidate"]["image_key"] != first["image_key"]
    )
    one.close()
    other.close()
    assert pq.read_table(work / "train/audit/verdicts.parquet").num_rows == 1


def test_run__a_second_review_of_a_split_is_refused_by_name(tmp_path: Path) -> None:
    work = make_audited(tmp_path)
    with served(work) as running:
        command = [sys.executable, "-m", "cusa", "review", str(work), "--port", "0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1, done.stderr
        assert re.search(rf"is reviewed already, by `.*review.*` \(process {running.process.pid} on ", done.stderr)
        assert Client(running.port).next()["candidate"] is not None
        assert audit.run(AuditConfig(neighbours=4, gallery=2), split=Split(work, "train")).fresh, "an audit may run"
        running.kill()
    with served(work) as running:  # released by death
        assert Client(running.port).next()["candidate"] is not None  # it serves; until then a signal finds no handler
        assert running.stop()[0] == 0


def test_run__a_port_in_use(tmp_path: Path) -> None:
    work = make_audited(tmp_path)
    with server.listen(0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Port {port} cannot be used"):
            server.run(work, port=port)
        done = subprocess.run(
            [sys.executable, "-m", "cusa", "review", str(work), "--port", str(port)], capture_output=True, text=True
        )
    assert done.returncode == 2
    assert "--port" in done.stderr


def test_run__nothing_to_judge_or_a_foreign_table(tmp_path: Path) -> None:
    work = make_audited(tmp_path)
    candidates = work / "train/audit/candidates.parquet"
    with pytest.raises(ConfigError, match="score"):
        server.run(work, port=0, questions=server.Questions(where="scor > 1"))
    whole = candidates.read_bytes()
    table = pq.read_table(candidates)
    pq.write_table(table.replace_schema_metadata({"split": "0" * 64}), candidates)
    with pytest.raises(StaleError, match="cusa audit"):
        server.run(work, port=0)
    pq.write_table(pa.table({"x": [1]}), candidates)
    with pytest.raises(DataError, match="image_key"):
        server.run(work, port=0)
    candidates.unlink()
    with pytest.raises(DataError, match="cusa audit"):
        server.run(work, port=0)
    candidates.write_bytes(whole)
    (work / "train/audit/verdicts.jsonl").unlink()
    (work / "train/audit/verdicts.jsonl").mkdir()  # as root reads and writes everything, a folder in the file's place
    with pytest.raises(DataError, match="cannot be written"):
        server.run(work, port=0)


def test_run__names_the_split_where_several_are_audited(tmp_path: Path) -> None:
    work = make_audited(tmp_path)
    shutil.copytree(work / "train", work / "val")
    with pytest.raises(DataError, match="--split: train, val"):
        server.run(work, port=0)
    with pytest.raises(DataError, match="has no split 'tset'"):
        server.run(work, split="tset", port=0)


def test_run__a_folder_that_lies_elsewhere() -> None:
    with pytest.raises(ConfigError, match="copy memory"):
        server.run(place("memory://bucket/work"), port=0)


def test_room__no_candidates_and_keys_that_are_gone(tmp_path: Path) -> None:
    work = make_audited(tmp_path)
    split = Split(work, "train")
    candidates = split.folder / "audit/candidates.parquet"
    table = pq.read_table(candidates)
    pq.write_table(table.slice(0, 0), candidates)
    with Journal(split.folder / "audit") as journal:
        journal.append(make(1, image_key="mini/gone"))
    room = Room(split)
    state = room.next(reviewer="ada", tab="a")
    assert state["candidate"] is None
    assert state["progress"]["asked"] == 0
    assert state["history"][0]["image_key"] == "mini/gone"
    undone = room.judge(
        id="verdict-0002",
        image_key="mini/gone",
        caption_key="mini/b#1",
        verdict="undo",
        undoes="verdict-0001",
        reviewer="ada",
        tab="a",
    )
    assert undone["candidate"] is None
    room.close()
    foreign = table.slice(0, 1).set_column(0, "image_key", pa.array(["mini/gone"]))
    pq.write_table(foreign.replace_schema_metadata(table.schema.metadata), candidates)
    room = Room(split)
    assert room.next(reviewer="ada", tab="a")["candidate"] is None
    room.close()


def test_image__other_formats_and_broken_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_audited(tmp_path)
    room = Room(Split(work, "train"))
    key = room.split.image_keys[0]
    data, kind = room.image(key)
    assert kind == "image/jpeg"
    monkeypatch.setattr(room_module, "_BROWSERS_READ", {})
    decoded, kind = room.image(key)
    assert kind == "image/jpeg"
    assert decoded[:3] == b"\xff\xd8\xff"
    assert decoded != data
    tar = work / "train" / str(room.split.samples["shard"][0])
    tar.write_bytes(b"")
    room.split.close()
    with pytest.raises(DataError, match="ends within"):
        room.image(key)
    room.close()


def run_session(
    monkeypatch: pytest.MonkeyPatch, work: Path, **more: Any
) -> tuple[server.Reviewed, Room, dict[str, Any]]:
    """Serve nothing; return what a session came to, its room, and what its page began with."""
    import uvicorn

    rooms: list[Room] = []
    started: dict[str, Any] = {}
    real_application = server.application

    def application(room: Room, **fields: Any) -> Any:
        rooms.append(room)
        started.update(fields)
        return real_application(room, **fields)

    monkeypatch.setattr(server, "application", application)
    monkeypatch.setattr(uvicorn.Server, "run", lambda running, sockets: None)
    done = server.run(work, port=0, on_ready=lambda url: started.update(url=url), **more)
    return done, rooms[0], started


def test_run__asks_what_it_was_told_and_says_what_it_came_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_audited(tmp_path)
    split = Split(work, "train")
    done, room, started = run_session(monkeypatch, work)
    assert done == server.Reviewed(None, 0, 0, ())
    assert (room.votes, room.doubts, room.folder) == (1, None, split.folder / "audit")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", started.pop("url"))
    assert started == {"reviewer": "", "where": ""}
    with Journal(split.folder / "audit") as journal:
        for number, (image, word) in enumerate(((0, "match"), (1, "no match"), (2, "duplicate"), (3, "skip"))):
            journal.append(make(number, word, image_key=split.image_keys[image], caption_key=split.caption_keys[0]))
        journal.append(make(9, image_key="mini/gone", caption_key=split.caption_keys[0]))
    with (split.folder / "audit" / verdicts.JOURNAL).open("a") as file:
        file.write('{"id": "torn')
    questions = server.Questions(where="score > 0", votes=3, limit=2)
    done, room, started = run_session(monkeypatch, work, split="train", questions=questions, reviewer="zoe")
    assert (room.votes, started["reviewer"], started["where"]) == (3, "zoe", "score > 0")
    assert (done.verdicts, done.pairs, done.positive) == (split.folder / "audit/verdicts.parquet", 3, 2)
    assert len(pq.read_table(split.folder / "audit/verdicts.parquet")) == 5
    unknown, torn = done.notes
    assert "1 pairs were judged whose image or caption" in unknown
    assert 'killed while writing was cut off: \'{"id": "torn\'' in torn
    assert isinstance(room.candidates, Candidates)
    assert room.candidates._limit == 2
