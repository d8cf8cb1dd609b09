"""The planner: which size of `house` to train for a byte cap, a time limit and a text, and the score to expect."""
