"""From a float model to an int8 one, block by block: what ``onnxmtl quantize`` is made of. No torch."""
