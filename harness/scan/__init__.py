"""What a script says about itself without being run: names resolved, flags, clocks, prints."""
