"""Speed and memory of fetching a table of URLs, as ratios within one run, and thirty kills.

    python benchmarks/urls.py [--part speed|memory|img2dataset|kills ...] [--img2dataset PYTHON]

The server is `tests/pipeline/urls/server.py` in a process of its own on the same cores: pictures of some 700 bytes,
each answered in one write. `bare` is one process with the same library's client: as many requests at once, `read()` of
each answer, nothing checked, nothing written. `cusa` is the whole stage in a process of its own, its clock started once
its modules are imported, as bare's is: plan, robots.txt, bounds, proof that each picture is whole, SHA-256, tars,
tables, summary, page, ledger. Rounds are run in turn and the shortest times compared, with the processor seconds of all
processes and `others`, the cores that other programs kept busy meanwhile (the server among them).

`memory`: the largest resident size of the largest process at 2,500 rows and at eight times as many.

`img2dataset`: the same table and server, its pictures stored as they come (`disable_all_reencoding`); the same URLs
give a picture, and the same bytes. It lives in an environment of its own, whose Python is named.

`kills`: a table of 20,000 URLs of a hostile web, killed with SIGKILL at 30 random moments, each time gone on with, and
one run that nobody disturbed, file by file.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

ROOT = Path(__file__).parents[1]
ROUNDS = 2
CONNECTIONS = 64
BARE = """
import asyncio, csv, json, os, sys, time
import aiohttp
urls = [row["url"] for row in csv.DictReader(open(sys.argv[1]))]
async def main():
    slots = asyncio.Semaphore({connections})
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit={connections})) as session:
        async def one(url):
            async with slots, session.get(url) as response:
                return len(await response.read())
        total = 0
        for at in range(0, len(urls), 1000):
            total += sum(await asyncio.gather(*map(one, urls[at:at + 1000])))
    return total
start = time.perf_counter()
asyncio.run(main())
print(json.dumps({{"seconds": time.perf_counter() - start, "cpu": sum(os.times()[:4])}}))
"""
CUSA = """
import json, multiprocessing, os, resource, sys, time
from pathlib import Path
from cusa.pipeline import urls
from cusa.pipeline.config import UrlsConfig
import aiohttp, duckdb
def main():
    print("begin", flush=True)
    start = time.perf_counter()
    outcome = urls.run(UrlsConfig(**json.loads(sys.argv[3])), table=Path(sys.argv[1]), out=Path(sys.argv[2]))
    seconds = time.perf_counter() - start
    for process in multiprocessing.active_children():  # so that what they took counts
        process.join()
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    print(json.dumps({"seconds": seconds, "cpu": sum(os.times()[:4]), "MiB": peak, "kept": outcome.counts["kept"]}))
if __name__ == "__main__":
    main()
"""
IMG2DATASET = """
import sys
from img2dataset import download
if __name__ == "__main__":
    download(url_list=sys.argv[1], input_format="csv", url_col="url", caption_col="caption", output_folder=sys.argv[2],
             output_format="webdataset", processes_count=2, thread_count=64, resize_mode="no", encode_format="jpg",
             disable_all_reencoding=True, number_sample_per_shard=1000, retries=0, timeout=2, compute_hash="sha256")
"""
HOSTILE = (
    "403/{}",
    "page/{}",
    "login/{}",
    "empty/{}",
    "nothing{}",
    "tag/noai{}",
    "video/{}",
    "half/{}",
    "forbidden/{}.jpg",
)


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Serve in a process of its own; give the address."""
    command = [sys.executable, "-m", "tests.pipeline.urls.server"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


def table(path: Path, root: str, rows: int, *, bad: int = 0) -> Path:
    """Write a table; every `bad`-th row (0: none) is one that gives no picture."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["url", "caption"])
        for number in range(rows):
            name = HOSTILE[number // bad % len(HOSTILE)].format(number) if bad and not number % bad else ""
            writer.writerow([f"{root}/{name or f'img/{number}.jpg'}", f"caption {number}"])
    return path


def call(script: str, *arguments: object) -> dict[str, Any]:
    """Run a script in a process of its own; return what it printed, with the cores that others kept busy."""
    busy, start = _busy(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - start
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**values, "others": round((_busy() - busy - values["cpu"]) / seconds, 2)}


def _busy() -> float:
    first = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    return (sum(map(int, first)) - int(first[3]) - int(first[4])) / os.sysconf("SC_CLK_TCK")


def settings(**more: Any) -> str:
    """Return settings of ours that put the same load on the server as bare's."""
    values = {"private": "listed", "connections": CONNECTIONS, "per_host": 2048, "retries": 0, "timeout": 5.0, **more}
    return json.dumps(values)


def speed(folder: Path, root: str) -> dict[str, Any]:
    """Compare with a bare client, in turn."""
    rows = 20_000
    source = table(folder / "speed.csv", root, rows)
    runs: dict[str, list[dict[str, Any]]] = {"bare": [], "cusa_1_process": [], "cusa_2_processes": []}
    for number in range(ROUNDS):
        runs["bare"].append(call(BARE.format(connections=CONNECTIONS), source))
        for workers in (1, 2):
            name = f"cusa_{workers}_process{'es' * (workers - 1)}"
            runs[name].append(call(CUSA, source, folder / f"{name}-{number}", settings(workers=workers)))
    rates = {name: rows / min(run["seconds"] for run in of) for name, of in runs.items()}
    return {
        "rows": rows,
        "images_per_second": {name: round(rate) for name, rate in rates.items()},
        "ratio_to_bare": {name: round(rate / rates["bare"], 3) for name, rate in rates.items() if name != "bare"},
        "runs": runs,
    }


def memory(folder: Path, root: str) -> dict[str, Any]:
    """Compare the largest resident size at eight times the rows."""
    peaks = {}
    for rows in (2500, 20_000):
        source = table(folder / f"memory-{rows}.csv", root, rows)
        peaks[rows] = round(call(CUSA, source, folder / f"memory-{rows}", settings(workers=1))["MiB"], 1)
    return {"MiB": peaks, "ratio": round(peaks[20_000] / peaks[2500], 3)}


def img2dataset(folder: Path, root: str, python: str) -> dict[str, Any]:
    """Compare pictures and bytes with img2dataset's, on one table and one server."""
    source = table(folder / "both.csv", root, 3000, bad=7)
    start = time.perf_counter()
    script = folder / "official.py"
    script.write_text(IMG2DATASET)
    subprocess.run([python, str(script), str(source), str(folder / "official")], check=True, capture_output=True)
    official_seconds = time.perf_counter() - start
    ours = call(CUSA, source, folder / "ours", settings(workers=2, robots=False, refused_tags=["noai"]))
    import pyarrow.parquet as pq

    theirs = {}
    for file in sorted((folder / "official").glob("*.parquet")):
        members = {}
        with tarfile.open(file.with_suffix(".tar")) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    data = tar.extractfile(member)
                    assert data is not None
                    members[member.name.removesuffix(".jpg")] = hashlib.sha256(data.read()).hexdigest()
        for row in pq.read_table(file).to_pylist():
            if row["status"] == "success":
                theirs[row["url"]] = members[row["key"]]
    fetched = [
        row
        for file in sorted((folder / "ours/fetched").glob("?????.parquet"))
        for row in pq.read_table(file).to_pylist()
    ]
    kept = {row["url"]: row["sha256"] for row in fetched if row["status"] == "kept"}
    # With its own re-encoding off it looks at no content: what is no picture is stored as one.
    none = Counter(url.removeprefix(root).split("/")[1] for url in theirs.keys() - kept.keys())
    # It is gone on with where it stopped: nothing that it has is asked for again.
    adopted = call(CUSA, source, folder / "official", settings(workers=2, robots=False, refused_tags=["noai"]))
    return {
        "rows": 3000,
        "pictures": {"img2dataset": len(theirs), "cusa": len(kept)},
        "only_cusa": len(kept.keys() - theirs.keys()),
        "only_img2dataset": dict(sorted(none.items())),
        "same_bytes": all(theirs[url] == kept[url] for url in theirs.keys() & kept.keys()),
        "seconds": {"img2dataset_with_start": round(official_seconds, 2), "cusa": round(ours["seconds"], 2)},
        "gone_on_with": {"kept": adopted["kept"]},
    }


def kills(folder: Path, root: str, seed: int) -> dict[str, Any]:
    """Kill at random moments, go on, compare every file that says what came."""
    rows = 20_000
    source = table(folder / "kills.csv", root, rows, bad=10)
    whole = call(CUSA, source, folder / "whole", settings(workers=2))
    rng = random.Random(seed)
    met, finished, same = 0, [], []
    out = folder / "killed"
    while met < 30:
        command = [sys.executable, "-c", CUSA, str(source), str(out), settings(workers=2)]
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()  # it works from now on
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.0, whole["seconds"] * 0.7))
            if ended := process.poll() is not None:
                same.append(_contents(folder / "whole") == _contents(out))
                shutil.rmtree(out)
            else:
                met += 1
                process.send_signal(signal.SIGKILL)
        if not ended:
            finished.append(sum(1 for _ in (out / "fetched").glob("?????.parquet")))
    last = call(CUSA, source, out, settings(workers=2))
    one, other = _contents(folder / "whole"), _contents(out)
    return {
        "rows": rows,
        "kept": last["kept"],
        "kills_at_work": met,
        "units_finished_after_each": finished,
        "ends": len(same) + 1,
        "same_bytes": one == other and all(same),
        "files": len(one),
        "differ": sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))[:10],
    }


def _contents(out: Path) -> dict[str, str]:
    """Return the digest of every file but of those that say how long it took."""
    apart = ("ledger.json", "index.html", ".cusa.lock")
    return {
        file.relative_to(out).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(out.rglob("*"))
        if file.is_file() and file.name not in apart and ".log." not in file.name
    }


def main() -> None:
    """Run the parts that are asked for and write the results down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=("speed", "memory", "img2dataset", "kills"))
    parser.add_argument("--img2dataset", default="", help="Python of an environment that has it")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    parts = options.part or ["speed", "memory", "kills", *(["img2dataset"] if options.img2dataset else [])]
    out = Path(__file__).parent / "results" / f"urls-2-core-x86-{time.strftime('%Y-%m-%d')}.json"
    results = json.loads(out.read_text()) if out.is_file() else {"machine": "2-core-x86"}
    with tempfile.TemporaryDirectory() as place, server() as root:
        folder = Path(place)
        for part in parts:
            if part == "img2dataset":
                results[part] = img2dataset(folder, root, options.img2dataset)
            elif part == "kills":
                results[part] = kills(folder, root, options.seed)
            else:
                results[part] = (speed if part == "speed" else memory)(folder, root)
            print(json.dumps({part: results[part]}, indent=1))
            out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
