"""Rule sets as data, one TOML file a track."""
