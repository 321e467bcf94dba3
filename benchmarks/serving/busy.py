"""A stranger who keeps one core busy until he is killed."""

print("ready", flush=True)
while True:
    sum(range(10_000))
