"""Stages killed with SIGKILL at random moments and run again, in processes of their own.

    python -m tests.pipeline.killing STAGE FOLDER KILLS SEED

A helper process imports everything once and forks a child for each run, as a start of Python each time would take
minutes. Each kill meets the state before the stage; then the stage runs to its end, and every file is compared with
those of an undisturbed run.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What a ledger says of the run, not of what it made.
_TIMES = {"seconds", "finished", "peak_memory_bytes", "modified", "digest"}
