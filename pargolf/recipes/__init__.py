"""Recipes: whole systems as data: ours, the published ones with their faults, and the same ones repaired."""
