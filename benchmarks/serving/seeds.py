"""The loop that Continual replaces, on Redis Streams: one JSON message at a time through an eager network.

    python seeds.py S  <redis port> <stream> <net> <threads>     read, predict, log
    python seeds.py S2 <redis port> <stream> <net> <threads>     the same, writes a JSON result and acknowledges, one by one

As the broker classifiers do it: float32 pixels as base64 in JSON, `torch.tensor`, a batch of one, softmax, a log line; 500 messages
are fetched ahead. Prints `ready`, works when a line comes on standard input, prints its count and its CPU seconds when the stream is drained.
"""

from __future__ import annotations

import base64
import json
import logging
import sys
import time

import numpy as np
import redis
import torch
from continual_workers.training.models import build
from nets import CLASSES, NETS

PREFETCH = 500


def main() -> None:
    mode, port, stream, net_name, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    log = logging.getLogger("seed")
    logging.basicConfig(filename="/dev/null", level=logging.INFO)
    net = NETS[net_name]
    model = build(net.name, net.shape, len(CLASSES), 0).eval()
    client = redis.Redis(port=int(port), protocol=2)
    shape = (1, net.shape.channels, net.shape.height, net.shape.width)
    with torch.no_grad():
        model(torch.zeros(shape))
    print("ready", flush=True)
    sys.stdin.readline()
    count, cpu = 0, time.process_time()
    while entries := _read(client, stream):
        for entry_id, fields in entries:
            message = json.loads(fields[b"message"])
            pixels = np.frombuffer(base64.b64decode(message["image"]), np.float32)
            with torch.no_grad():
                probabilities = torch.softmax(model(torch.tensor(pixels).view(shape)), 1)[0]
            best = int(probabilities.argmax())
            log.info("%s: %s (%.3f)", message["id"], CLASSES[best], float(probabilities[best]))
            if mode == "S2":
                result = {"id": message["id"], "class": CLASSES[best], "probabilities": probabilities.tolist()}
                client.xadd(stream + ":out", {"message": json.dumps(result)})
                client.xack(stream, "seed", entry_id)
            count += 1
    print(count, time.process_time() - cpu, flush=True)


def _read(client: redis.Redis, stream: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    reply = client.xreadgroup("seed", f"c{id(client)}", {stream: ">"}, count=PREFETCH)
    return reply[0][1] if reply else []


if __name__ == "__main__":
    main()
