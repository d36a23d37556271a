"""What the command line takes to start: help, and mistakes that need no data to be seen, in seconds of processor.

Wall-clock time says more of what else a machine does; both are kept, and so is a Python that does nothing.

.venv/bin/python benchmarks/startup.py
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
TIMES = 3
LIMITS = {"--help": 0.4}
"""Asked of help; of everything else, a second."""

COMMANDS = (
    "--help",
    "--version",
    "eval -h",
    "eval run --data work --tasks cros-modal",
    "eval run --data work --set bootstrp=2",
    "eval runs/frist --data work",
    "train scenes-cusa --data work --out out --set train.stps=3",
    "sweep scenes-cusa --data work --out out --grid metod=cusa",
    "export run --to hff --out out",
    "report runs/frist",
    "shard karpaty raw --out out",
    "extract-teachers work --image nobodys-teacher --text nobodys-teacher",
    "audit work --split tset",
    "index work --split tset",
    "search work words --split tset",
)


def _seconds(words: list[str], folder: Path) -> tuple[float, float, int]:
    """Return processor and wall-clock seconds, and the exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    before, start = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, check=False)
    wall, after = time.perf_counter() - start, os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return spent, wall, done.returncode


def main() -> None:
    """Measure, print, and keep the figures."""
    cusa = "from cusa.cli import main; main()"
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "run").mkdir()
        (folder / "run/recipe.json").write_text("{}")
        (folder / "runs/first").mkdir(parents=True)
        (folder / "runs/first/recipe.json").write_text("{}")
        (folder / "work/test").mkdir(parents=True)
        for command in ("", *COMMANDS):
            words = ["-c", cusa, *command.split()] if command else ["-c", "pass"]
            runs = [_seconds(words, folder) for _ in range(TIMES)]
            codes = {code for _, _, code in runs}
            assert codes <= ({0} if not command or command.endswith(("-h", "--help", "--version")) else {1, 2}), command
            results[f"cusa {command}" if command else "python alone"] = {
                "processor_s": round(statistics.median(spent for spent, _, _ in runs), 3),
                "wall_s_least": round(min(wall for _, wall, _ in runs), 3),
                "asked_s": LIMITS.get(command, 1.0) if command else None,
            }
    target = RESULTS / f"startup-{os.cpu_count()}-core-x86-{time.strftime('%Y-%m-%d')}.json"
    target.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
