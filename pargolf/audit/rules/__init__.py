"""The rules of the game, one idea a file; `table` lists them all."""
