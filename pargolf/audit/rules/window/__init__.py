"""Rules on what a position of a window sees: masks, the axis of time, and the targets."""
