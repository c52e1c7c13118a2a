"""Studies of training, after the paper's tables: what is varied, the runs, and what they say."""
