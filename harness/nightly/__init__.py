"""The nightly series: its table, its nights, what changed and why. Pure, but for its appending."""
