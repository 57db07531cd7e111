"""Measuring models with ONNX Runtime, side by side: latency, throughput, memory, and where the time goes.

:func:`onnxmtl.deploy.bench.bench.bench` does all of it. Nothing is imported here: the process that measures memory
should have little of its own.
"""
