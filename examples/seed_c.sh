#!/usr/bin/env bash
# Train and evaluate from a .npz, look at the plots, then three separate programs around one broker:
# query app -> classifier -> printing consumer. No cluster, no operator: any Redis will do.
#   examples/seed_c.sh                   # real digits as .npz with the arrays image and label
#   examples/seed_c.sh --data DIR        # DIR/train.npz and DIR/test.npz of yours
source "$(dirname "$0")/common.sh"

if [ -z "$data" ]; then
  step "Two .npz files from real digits"
  data=$out/data
  make_data npz "$data/train.npz" "$data/test.npz"
fi

step "Train: model, history, curves and per-class accuracy go into one folder per run"
run train --dataset "$data/train.npz" --arch lenet5 --epochs "${EPOCHS:-12}" --out "$out/run"
ls "$out/run"

step "Evaluate the saved model on other data, without training"
run train evaluate "$out/run" --dataset "$data/test.npz"

step "A broker for the three programs"
port=$(free_port)
redis-server --port "$port" --bind 127.0.0.1 --save '' --appendonly no --dir "$out" --daemonize no >"$out/redis.log" 2>&1 &
redis=$!
trap 'kill $classifier $redis 2>/dev/null || true; wait 2>/dev/null || true' EXIT
classifier=
url=redis://127.0.0.1:$port

step "1 the classifier"
continual serve "$out/run" --redis-url "$url" --model digits >"$out/classifier.log" 2>&1 &
classifier=$!

step "2 the query app"
run produce "$data/test.npz" --redis-url "$url" --model digits --checkpoint "$out/run" --rate 100 --count 200 --labels-after 0.5

step "3 the printing consumer"
run consume --redis-url "$url" --model digits --from 0 --score --follow --idle 3 | tail -n 8
echo; echo "plots and predictions: $out/run"
