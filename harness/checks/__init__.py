"""One file a rule; each check states one thing with its evidence. Order here is the report's."""
