"""The runtime alone: batches of 64 out of memory, no stream. What no worker on these cores can exceed.

    python ceiling.py <model.onnx> <net> <seconds>

Prints `ready`; after a line on standard input works for so long, the last batch to its end; prints images, CPU seconds and seconds.
"""

from __future__ import annotations

import sys
import time

import onnxruntime as ort
from nets import NETS

BATCH = 64


def main() -> None:
    path, net_name, seconds = sys.argv[1:]
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = NETS[net_name].images(BATCH)
    for _ in range(3):
        session.run(["logits"], {"image": images})
    print("ready", flush=True)
    sys.stdin.readline()
    done, cpu, began = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() < began + float(seconds):
        session.run(["logits"], {"image": images})
        done += BATCH
    print(done, time.process_time() - cpu, time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
