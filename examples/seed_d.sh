#!/usr/bin/env bash
# One image at a time: ask, correct what was wrong, ask again. Learned at once, from one image, without forgetting the rest.
#   examples/seed_d.sh                   # a real digit, tilted until the model gets it wrong
#   examples/seed_d.sh --data DIR        # DIR/image.png of yours, and LABEL=<class> in the environment
source "$(dirname "$0")/common.sh"

step "A model of handwritten digits"
[ -f "$out/run/model.onnx" ] || run train --dataset digits --arch lenet5 --epochs "${EPOCHS:-12}" --out "$out/run"

label=${LABEL:-7}
image=${data:+$data/image.png}
if [ -z "$image" ]; then
  step "An image it answers wrongly: a real $label, tilted more and more"
  for tilt in 15 20 25 30 40 50; do
    image=$out/tilted-$tilt.png
    make_data png "$image" --digit "$label" --tilt "$tilt"
    answer=$(continual predict "$image" --checkpoint "$out/run" -o json | python -c 'import json, sys; d = json.load(sys.stdin); d = d[0] if isinstance(d, list) else d; print(d["class"])')
    echo "tilted by $tilt degrees: answered $answer"
    [ "$answer" != "$label" ] && break
  done
fi

step "Ask"
run predict "$image" --checkpoint "$out/run"
run train evaluate "$out/run" --dataset digits

step "Correct: one image, learned at once, and the same image is checked again"
run correct "$image" --label "$label" --checkpoint "$out/run"

step "Ask again, and see that it forgot nothing"
run predict "$image" --checkpoint "$out/run"
run train evaluate "$out/run" --dataset digits
