"""Judge an ONNX file from its bytes, before the runtime parses it.

The runtime would follow links to files beside the model, load operators of any registered domain and run loops without end.
The serving image has neither `onnx` nor `protobuf`, and needs neither: this module walks the wire format (field number, wire type,
payload) of the few messages that matter and skips the rest without copying. It refuses

* external data (any tensor, in a node too): a model is one file, so its digest is all of it;
* operators outside the standard domains, local functions and training graphs;
* control flow (subgraphs): what a request costs is bounded by the graph;
* more bytes, nodes or tensors than any model we train has.

Field numbers: onnx/onnx.proto, stable since IR version 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from continual_contract.errors import UnsafeModelError

ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
IMPORTABLE_DOMAINS = ALLOWED_DOMAINS | {"com.microsoft"}
"""The quantizer declares the last one even where no node uses it."""
MAX_MODEL_BYTES = 1 << 30
MAX_NODES = 20_000
MAX_TENSORS = 20_000

Value = int | memoryview

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# ModelProto
_GRAPH, _OPSET_IMPORT, _TRAINING_INFO, _FUNCTIONS = 7, 8, 20, 25
# GraphProto
_NODE, _INITIALIZER, _SPARSE_INITIALIZER = 1, 5, 15
# NodeProto, OperatorSetIdProto
_OP_TYPE, _ATTRIBUTE, _NODE_DOMAIN, _IMPORT_DOMAIN = 4, 5, 7, 1
# AttributeProto
_TENSOR, _SUBGRAPH, _TENSORS, _SUBGRAPHS, _SPARSE_TENSOR, _SPARSE_TENSORS = 5, 6, 10, 11, 22, 23
# TensorProto, SparseTensorProto
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_SPARSE_PARTS = (1, 2)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the walk counted."""

    nodes: int
    tensors: int
    operators: frozenset[str]


def check_model(data: bytes) -> ModelFacts:
    """Walk the file; `UnsafeModelError` names what it refused. Cost is linear in the number of nodes and tensors."""
    if len(data) > MAX_MODEL_BYTES:
        raise _refused("is too large", f"{len(data)} bytes", f"keep it below {MAX_MODEL_BYTES} bytes")
    graphs = 0
    facts = ModelFacts(0, 0, frozenset())
    for number, value in _fields(memoryview(data)):
        if number == _GRAPH:
            graphs += 1
            facts = _check_graph(_message(value))
        elif number == _OPSET_IMPORT:
            _check_domain(_text(_message(value), _IMPORT_DOMAIN), IMPORTABLE_DOMAINS, "imports")
        elif number in (_TRAINING_INFO, _FUNCTIONS):
            raise _refused("holds local functions or a training graph", number, "export it inlined, for inference")
    if graphs != 1 or not facts.nodes:
        raise _refused(
            "is not an ONNX model with one graph", f"{graphs} graphs, {facts.nodes} nodes", "export it again"
        )
    return facts


def _check_graph(graph: memoryview) -> ModelFacts:
    nodes = tensors = 0
    operators: set[str] = set()
    for number, value in _fields(graph):
        if number == _NODE:
            nodes += 1
            operators.add(_check_node(_message(value)))
        elif number in (_INITIALIZER, _SPARSE_INITIALIZER):
            tensors += 1
            _check_tensor(_message(value), sparse=number == _SPARSE_INITIALIZER)
    if nodes > MAX_NODES or tensors > MAX_TENSORS:
        raise _refused("is larger than any model of ours", f"{nodes} nodes, {tensors} tensors", "simplify the graph")
    return ModelFacts(nodes, tensors, frozenset(operators))


def _check_node(node: memoryview) -> str:
    """Returns the node's operator."""
    operator = _text(node, _OP_TYPE)
    _check_domain(_text(node, _NODE_DOMAIN), ALLOWED_DOMAINS, f"operator {operator}")
    for number, value in _fields(node):
        if number == _ATTRIBUTE:
            _check_attribute(_message(value), operator)
    return operator


def _check_attribute(attribute: memoryview, operator: str) -> None:
    for number, value in _fields(attribute):
        if number in (_SUBGRAPH, _SUBGRAPHS):
            raise _refused("holds control flow", operator, "export a graph without If, Loop and Scan")
        if number in (_TENSOR, _TENSORS):
            _check_tensor(_message(value), sparse=False)
        elif number in (_SPARSE_TENSOR, _SPARSE_TENSORS):
            _check_tensor(_message(value), sparse=True)


def _check_tensor(tensor: memoryview, *, sparse: bool) -> None:
    for number, value in _fields(tensor):
        if sparse and number in _SPARSE_PARTS:
            _check_tensor(_message(value), sparse=False)
        elif not sparse and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
            raise _refused("keeps weights outside the file", "external data", "export it with external_data=False")


def _check_domain(domain: str, allowed: frozenset[str], where: str) -> None:
    if domain not in allowed:
        raise _refused(f"{where} of a foreign domain", domain, "use only operators of ai.onnx and ai.onnx.ml")


def _fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Field numbers and payloads of one message, in file order; varints as int, everything else as a view."""
    position, end = 0, len(message)
    while position < end:
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire_type == _BYTES:
            length, position = _varint(message, position)
        elif wire_type in (_FIXED64, _FIXED32):
            length = 8 if wire_type == _FIXED64 else 4
        else:
            raise _malformed(f"wire type {wire_type}")
        if number == 0 or position + length > end:
            raise _malformed(f"field {number} of {length} bytes")
        yield number, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if position >= len(message):
            raise _malformed("a number cut short")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _malformed("a number of more than 64 bits")


def _message(value: Value) -> memoryview:
    if isinstance(value, int):
        raise _malformed("a number where a message belongs")
    return value


def _text(message: memoryview, wanted: int) -> str:
    """The last string of a field (protobuf's rule); empty without one."""
    found = [bytes(_message(value)) for number, value in _fields(message) if number == wanted]
    return found[-1].decode("utf-8", "replace") if found else ""


def _refused(how: str, value: object, remedy: str) -> UnsafeModelError:
    return UnsafeModelError(how, field="ONNX model", value=value, remedy=remedy)


def _malformed(what: str) -> UnsafeModelError:
    return _refused("is not well-formed protobuf", what, "export it again")
