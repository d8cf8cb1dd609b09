"""Recipes: whole systems as data, the published ones with their faults, and the same ones mended."""
