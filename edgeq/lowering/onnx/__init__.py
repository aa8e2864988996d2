"""Lowering to ONNX for ONNX Runtime: packed weights in external data, fused attention, no float copies."""
