"""How nodes of fusion units say in their metadata which part of a unit they are: three pipelines read it."""

FUSION_KEY = "onnxmtl.fusion"
SLICE = "slice"  # a 1×1 convolution of one feature: a part of the unit's
ZERO = "zero"  # zeros in the place of a cut edge, and their shape
JOIN = "join"  # the sum of the slices
UNIT = "unit"  # the joined convolution of several features
ALONE = "alone"  # that of a unit without an edge
