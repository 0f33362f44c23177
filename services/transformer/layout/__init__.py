"""How the rows of a view lie in Redis: packed, as plain hashes, or as Feast writes them. All are read as packed rows."""
