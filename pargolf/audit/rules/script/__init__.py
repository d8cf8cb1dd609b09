"""Rules on what the script does beside the order of scores: bytes, clocks, masks, files, the network."""
