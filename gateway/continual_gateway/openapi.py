"""What the OpenAPI document says of bodies that handlers read themselves, with examples that work when pasted."""

from __future__ import annotations

from typing import Any

INFER_DOC: dict[str, Any] = {
    "parameters": [
        {
            "name": "Inference-Header-Content-Length", "in": "header", "required": False,
            "schema": {"type": "integer", "minimum": 0},
            "description": "Length of the JSON head when binary tensors follow it; 0: the whole body is the one tensor.",
        },
        {
            "name": "Idempotency-Key", "in": "header", "required": False,
            "schema": {"type": "string", "maxLength": 256, "pattern": "^[ -~]*$"},
            "description": "The same key again is the same request: it is not asked twice.",
        },
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string", "maxLength": 256},
                        "parameters": {"type": "object"},
                        "inputs": {
                            "type": "array", "minItems": 1, "maxItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["name", "shape", "datatype", "data"],
                                "properties": {
                                    "name": {"const": "image"},
                                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
                                    "datatype": {"enum": ["UINT8", "BYTES"]},
                                    "data": {"type": "array", "items": {}},
                                },
                            },
                        },
                        "outputs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {"name": {"enum": ["class", "confidence", "version", "request_id"]}},
                            },
                        },
                    },
                },
                "example": {
                    "id": "one",
                    "inputs": [{"name": "image", "shape": [1, 2, 2, 1], "datatype": "UINT8", "data": [0, 255, 128, 7]}],
                },
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
            "image/webp": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    "responses": {
        "200": {
            "description": "One answer per image",
            "content": {
                "application/json": {
                    "example": {
                        "model_name": "digits", "model_version": "v7", "id": "one",
                        "outputs": [
                            {"name": "class", "datatype": "BYTES", "shape": [1], "data": ["7"]},
                            {"name": "confidence", "datatype": "FP32", "shape": [1], "data": [0.9871]},
                            {"name": "version", "datatype": "BYTES", "shape": [1], "data": ["v7"]},
                            {"name": "request_id", "datatype": "BYTES", "shape": [1], "data": ["1763740800000-0"]},
                        ],
                    }
                }
            },
        },
    },
}  # fmt: skip

_FILE = {"type": "string", "format": "binary"}
CORRECTION_DOC: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["label"],
                    "properties": {
                        "label": {"type": "string", "minLength": 1},
                        "image": _FILE,
                        "request_id": {"type": "string"},
                    },
                },
                "example": {"label": "7", "request_id": "1763740800000-0"},
            }
        },
    },
}

UPLOAD_DOC: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "files": {"type": "array", "items": _FILE},
                        "archive": _FILE,
                        "metadata": _FILE,
                        "label": {"type": "string"},
                        "source": {"enum": ["truth", "audit", "correction"]},
                    },
                }
            }
        },
    },
}
