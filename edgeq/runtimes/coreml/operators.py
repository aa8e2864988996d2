"""All operations that the interpreter knows, by their name in MIL."""

from __future__ import annotations

from edgeq.runtimes.coreml.compression import COMPRESSION
from edgeq.runtimes.coreml.elementwise import ELEMENTWISE
from edgeq.runtimes.coreml.indexing import INDEXING
from edgeq.runtimes.coreml.neural import NEURAL
from edgeq.runtimes.coreml.operator import Operator
from edgeq.runtimes.coreml.reductions import REDUCTIONS
from edgeq.runtimes.coreml.shapes import SHAPES

OPERATORS: dict[str, Operator] = ELEMENTWISE | REDUCTIONS | SHAPES | INDEXING | NEURAL | COMPRESSION
