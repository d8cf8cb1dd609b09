"""Which member of the house to train for a cap, a clock and a text, and what it should reach."""
