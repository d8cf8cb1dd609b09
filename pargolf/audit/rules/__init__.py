"""The rules of the game, one idea per file; `table` lists them all."""
