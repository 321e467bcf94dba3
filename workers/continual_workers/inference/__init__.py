"""The inference worker: answers the requests its version owns, with a model whose every byte was verified.

`guard` judges an ONNX file before the runtime sees it, `engine` turns requests into outcomes, `worker` joins engine, stream and
health server in one process, `supervisor` runs one such process per core.
"""
