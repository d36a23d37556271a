#!/bin/sh
# Everything that only a CUDA device can say, in at most eight minutes: writes benchmarks/results/gpu-<card>-<date>.json.
#
#     benchmarks/gpu/run.sh           # on a machine with a card
#     benchmarks/gpu/run.sh --tiny    # the same code on a CPU, kernels interpreted, in a minute; writes nothing
set -eu
cd "$(dirname "$0")/../.."
case " $* " in *" --tiny "*) export TRITON_INTERPRET=1 ;; esac
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec timeout 480 "${PYTHON:-python}" benchmarks/gpu/measure.py "$@"
