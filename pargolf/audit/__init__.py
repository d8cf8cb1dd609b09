"""Judge a submission by the rules of the game, with evidence, and say what could not be checked."""
