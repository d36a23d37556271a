"""The process group of several ranks: nothing of it is left after its end."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import sys
from pathlib import Path

from cusa.train import ranks

def threads():
    return sorted(task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm"))

with ranks.process_group("cpu"):
    import torch.distributed.nn
    import transformers.modeling_utils

    assert ranks.gather_values(ranks.rank()) == [0, 1]
    ranks.barrier()
    within = threads()
sys.stdout.write(" ".join(within) + "/" + " ".join(threads()))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads' names are read from /proc")
def test_process_group__no_thread_of_it_outlives_it() -> None:
    """A thread of the group that meets the end of the interpreter aborts the process, now and then."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            env={**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    said = [process.communicate(timeout=240)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    for rank in said:
        within, after = rank.split("/")
        assert "gloo_tcp_loop" in within, "the name of such a thread"
        assert "gloo" not in after
        assert "tcpstore" not in after
