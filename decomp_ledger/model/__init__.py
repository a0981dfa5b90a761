"""Values and decisions: events, rules, catalogs, and `materialize`. Pure: no file, no torch."""
