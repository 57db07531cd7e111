"""Where tasks should branch off: estimators of every layout's score, and the exact best layouts within a budget."""
