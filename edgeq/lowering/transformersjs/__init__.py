"""The format of transformers.js: ONNX graphs for browsers, one for each data type."""
