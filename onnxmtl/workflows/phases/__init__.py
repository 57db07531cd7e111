"""The parts of a run, each one or more phases of its directory; ``compile`` and ``specialize`` put them together.

graphs      import           backbone, multi-task graph, supermodel, tasks
baselines   single-task-1 …, hard-sharing, random-…      what the found model is compared with
searching   a phase per stage of the search
decoding    decode           from the policy to an architecture, within the budget, and its selected model
training    the stage that trains the selected model
emission    emit             model.onnx, its certificate, the report
"""
