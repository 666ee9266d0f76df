"""One thin file a command: parse arguments, call the pure core, print through the terminal."""
