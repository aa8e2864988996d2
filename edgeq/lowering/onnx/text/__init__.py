"""Tokenizers as ONNX graphs, of ONNX Runtime's and its extensions' operators: before an encoder, beside a decoder."""
