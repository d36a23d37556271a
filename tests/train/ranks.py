"""Processes that share a batch: started once, all cases computed, results compared by the tests."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.train.processes import start_server

Work = Callable[[int], dict[str, Any]]


def run_on_ranks(work: Work, ranks: int, folder: Path) -> list[dict[str, Any]]:
    """Call `work(rank)` in processes that form a gloo group; return what each found.

    Args:
        work: importable by name; returns tensors, numbers and dictionaries of them.
        ranks: how many processes.
        folder: for the rendezvous and the results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start_server()
    mp.start_processes(_rank, args=(work, ranks, str(folder)), nprocs=ranks, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]


def _rank(rank: int, work: Work, ranks: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    try:
        torch.save(work(rank), Path(folder) / f"{rank}.pt")
    except Exception:
        traceback.print_exc()
        raise
    finally:
        dist.destroy_process_group()
