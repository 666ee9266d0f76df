"""Pure functions of numbers: no I/O, no state, each formula with its source."""
