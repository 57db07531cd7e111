"""The parts of ``add_task``.

base        a finished run, read back
asking      the new task, its data and the options, checked before anything is written
options     where the task could branch off, and what each place costs
training    a branch is trained, the rest of the model stays as it is; trials, and the one that is kept
emission    the model with the branch in it, its certificate, the report
"""
