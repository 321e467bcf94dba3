#!/usr/bin/env bash
# CIFAR-10 over a stream: a small CNN is trained on a CIFAR-10-format folder, a producer sends image and label as JSON with base64
# float32, a consumer prints predictions and keeps score, and the model goes on learning from what was labelled, behind a gate.
#   examples/seed_a.sh                   # makes a CIFAR-10-format folder from real digits, in colour
#   examples/seed_a.sh --data DIR        # DIR/cifar10 with torchvision's cifar-10-batches-py or -bin
source "$(dirname "$0")/common.sh"

if [ -z "$data" ]; then
  step "A CIFAR-10-format folder from real digits (give --data DIR for the real one)"
  data=$out/data
  make_data cifar10 "$data" --count 1500
fi
export CONTINUAL_DATA=$data CONTINUAL_HOME=${CONTINUAL_HOME:-$(mktemp -d -t continual-seed-a-XXXXXX)}
trap 'continual local down --purge >/dev/null 2>&1 || true' EXIT

step "One command: Redis, operator, evaluator, and a Job that trains v1"
run local up -f "$here/cifar10.yaml" --detach --wait --timeout 240

step "The producer: JSON lines {id, image: base64 float32, label}; each label follows a second later"
make_data json "$data" --count 300 --name morning |
  run produce - --shape json-base64-float32 --dedupe morning --rate 60 --labels-after 1
echo "the same ids again are not enqueued twice:"
make_data json "$data" --count 20 --name morning |
  run produce - --shape json-base64-float32 --dedupe morning --rate 0

step "The consumer: right or wrong as labels come, and the running accuracy"
run consume --from 0 --score --follow --idle 3 | tail -n 8

[ -n "${SHORT:-}" ] && exit 0 # SHORT=1 ends here, before anything is learned
step "Learning goes on: a training on the labelled stream; its candidate must prove itself before it serves"
run retrain
make_data json "$data" --count 4000 --name noon 2>/dev/null |
  continual produce - --shape json-base64-float32 --rate 60 --labels-after 1 >"$out/producer.log" 2>&1 &
producer=$!
for _ in $(seq 120); do
  continual get | tail -n 1
  continual history -o json >"$out/history.json"
  if python - "$out/history.json" <<'PY'
import json, sys
versions = json.load(open(sys.argv[1]))
versions = versions if isinstance(versions, list) else versions["versions"]
sys.exit(0 if any(v["version"] == "v2" and v["phase"] in ("Probation", "Stable", "RolledBack", "Rejected") for v in versions) else 1)
PY
  then break; fi
  sleep 2
done
kill "$producer" 2>/dev/null || true
wait "$producer" 2>/dev/null || true

step "What was decided, and why"
run decisions
run history
