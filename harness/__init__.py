"""speedrun: runs, judges and publishes record attempts in training-speed contests."""

__version__ = "0.2.2"
