"""The parts of ``recommend``; :func:`onnxmtl.workflows.recommend` puts them together.

Without torch:

asking        what a user may ask, and what is trained for it
costs         what a layout costs, counted or measured on graphs as they are emitted
budget        limits on that
predicting    what an estimator says of a layout
answering     layouts ranked within the budget, the front
store         the performance table of a run, from which any question is answered
jobs          which models are trained, each as a name and what makes it what it is
comparing     which layouts are trained to be compared
fanout        jobs handed to other processes, or to Ray
worker        the other process

With torch, imported only where a network is trained:

training_run  all trainings of a run, collected into the table
crew          who trains: this process, others, or Ray
training      one job, in this process
rereading     a run's directory read by another process
similarity    what single-task networks see
"""
