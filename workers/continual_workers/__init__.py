"""The processes that serve, judge and learn."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# onnxruntime's wheels look up Microsoft's event collector as soon as they are imported; only this variable, set before, stops them.
