"""All tests. A package, lest one of the same name in the system hide it."""
