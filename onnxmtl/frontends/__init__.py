"""From files and objects of the user to the graph IR and back; nothing else."""
