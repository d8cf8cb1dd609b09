"""Rules on what the script does besides the order of scores: bytes, clocks, masks, files, the network."""
